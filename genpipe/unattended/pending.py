"""What a run of a project would do, and why: found by reasons.py, read by flows without what that imports."""

import json
from dataclasses import dataclass
from datetime import datetime

WHY = "GENPIPE_WHY"  # in the environment of stages: why a retraining was begun


@dataclass(frozen=True)
class Pending:
    """What is to be done: stages of the DAG in order, whether to register, and the reasons in words.

    `trained` is when the last model was registered; None before the first.
    """

    stages: tuple[str, ...]
    register: bool
    reasons: tuple[str, ...]
    trained: datetime | None

    @property
    def any(self) -> bool:
        return bool(self.stages) or self.register

    @property
    def why(self) -> str:
        return "; ".join(self.reasons)

    def json(self) -> str:
        trained = self.trained.isoformat(timespec="seconds") if self.trained else None
        return json.dumps({
            "stages": self.stages, "register": self.register, "reasons": self.reasons, "trained": trained
        })  # fmt: skip

    @classmethod
    def of_json(cls, text: str) -> "Pending":
        read = json.loads(text)
        trained = datetime.fromisoformat(read["trained"]) if read["trained"] else None
        return cls(tuple(read["stages"]), read["register"], tuple(read["reasons"]), trained)
