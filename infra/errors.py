"""The exception tree of the whole house, by what the caller should do.

ObservatorError
├── Retry                  try the same again later
│   ├── DeliveryFailed     a record was not acknowledged by the log: publish it again
│   │   └── DeliveryPending   not yet: it is still being tried, flush again
│   ├── NotOwner           the group gave these partitions to somebody else: drop their state, read on
│   ├── LogUnavailable     the log does not answer
│   ├── TransactionAborted start over from the last committed offsets
│   └── ExchangeUnavailable the exchange does not answer or is limiting us
│       └── Limited        it blocks us for our rate: nothing was sent
├── Skip                   this one message cannot be used: dead letter, then go on
│   └── BadMessage         it cannot be read
└── Stop                   end this process (the supervisor or a person decides what next)
    ├── Fenced             another holder of the same id took over
    ├── BadSettings        a setting has a wrong name or value
    ├── TopicMissing       a topic was not created
    ├── RecordsLost        records were deleted before they were read
    ├── Unsupported        what is asked for is not offered in this deployment
    ├── AlreadyRunning     a second instance beside the first
    └── DiskFull           a file cannot be written, nothing half-written is left
"""


class ObservatorError(Exception):
    """Anything this program raises on purpose."""


class Retry(ObservatorError):  # noqa: N818 it names the reaction
    """Try the same again later."""


class DeliveryFailed(Retry):
    """A record was not acknowledged by the log."""


class DeliveryPending(DeliveryFailed):
    """A record is not acknowledged yet; it is still being tried, so flush again rather than publish again."""


class NotOwner(Retry):
    """The group gave these partitions to another member; the offsets were not committed."""


class LogUnavailable(Retry):
    """The log does not answer."""


class TransactionAborted(Retry):
    """Nothing of the transaction is visible; start over from the last committed offsets."""


class ExchangeUnavailable(Retry):
    """The exchange does not answer, or limits us."""


class Limited(ExchangeUnavailable):
    """The exchange blocks us for our rate, for longer than it is worth to wait; nothing was sent."""


class Skip(ObservatorError):  # noqa: N818 same
    """This one message cannot be used; it becomes a dead letter and the next one is taken."""


class BadMessage(Skip):
    """The bytes cannot be read as a message."""


class Stop(ObservatorError):  # noqa: N818 same
    """End this process; the message says what to do."""


class Fenced(Stop):
    """Another holder of the same transactional id or lease took over."""


class BadSettings(Stop):
    """A setting has a wrong name or value; the message names it."""


class TopicMissing(Stop):
    """A topic was not created; `observator topics create` does."""


class RecordsLost(Stop):
    """Records were deleted (retention) before they were read; the message names topic, partition and offsets."""


class Unsupported(Stop):
    """What is asked for is not offered in this deployment."""


class AlreadyRunning(Stop):
    """A second instance was started beside the first."""


class DiskFull(Stop):
    """A file cannot be written; the message says which, and nothing half-written is left."""
