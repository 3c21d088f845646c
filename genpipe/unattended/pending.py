"""What a run of a project would do, and why: found by reasons.py, read by flows without what that imports."""

import json
from dataclasses import dataclass
from datetime import datetime

WHY = "GENPIPE_WHY"  # in the environment of stages: why a retraining was begun


@dataclass(frozen=True)
class Pending:
    """What is to be done: stages of the DAG in order, whether to register, and the reasons in words.

    `trained` is when the last model was registered; None before the first. `source` is whether the source may hold
    rows that are not in data/ yet, None where it did not answer; a retraining, which has brought them in, leaves it.
    """

    stages: tuple[str, ...]
    register: bool
    reasons: tuple[str, ...]
    trained: datetime | None
    source: bool | None = False

    @property
    def any(self) -> bool:
        return bool(self.stages) or self.register

    @property
    def why(self) -> str:
        return "; ".join(self.reasons)

    def json(self) -> str:
        trained = self.trained.isoformat(timespec="seconds") if self.trained else None
        return json.dumps({
            "stages": self.stages, "register": self.register, "reasons": self.reasons, "trained": trained,
            "source": self.source,
        })  # fmt: skip

    @classmethod
    def of_json(cls, text: str) -> "Pending":
        read = json.loads(text)
        trained = datetime.fromisoformat(read["trained"]) if read["trained"] else None
        source = read.get("source", False)  # a project's own code may be older
        return cls(tuple(read["stages"]), read["register"], tuple(read["reasons"]), trained, source)
