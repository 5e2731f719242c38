"""People's own orders: at once, at a time, again and again, at a price; and the assistant that waits for a better one.

`runner` is the executor's part, `verbs` the command line's; `schedule`, `assistant`, `check`, `form` and `saving` are
pure. What goes out to the exchange goes through `consumers.execute.desk`, never from here.
"""
