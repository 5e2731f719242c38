"""One stage in a process of its own, for the verify and bench commands to start and to kill.

`python -m consumers.verify.worker STAGE BOOTSTRAP PREFIX SETTINGS_JSON NAME`, where STAGE is `loop`, `faust` or
`predict`. Ends on SIGTERM like the real process.
"""

import json
import logging
import signal
import sys
import threading

from infra.kafka import KafkaLog
from infra.settings import Settings
from streams.runner import FeatureLoop, options_of


def main(stage: str, bootstrap: str, prefix: str, settings_json: str, name: str) -> None:
    """Run `stage` until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.model_validate(json.loads(settings_json))
    log = KafkaLog(bootstrap, prefix)
    stop = threading.Event()
    if stage == "faust":
        from streams import app  # noqa: PLC0415 Faust is slow to import and only one stage needs it

        options = options_of(settings)
        batch = settings.streams.batch
        app.run_worker(
            app.create_app(
                log, options, bootstrap=bootstrap, prefix=prefix, datadir=settings.home / "faust", batch=batch
            )
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if stage == "loop":
        FeatureLoop(log, options_of(settings), instance=name or None, batch=settings.streams.batch, stop=stop).run()
    else:
        from consumers import predict  # noqa: PLC0415

        predict.run(settings, log, stop)
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
