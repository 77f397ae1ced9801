"""The immutable event log: append, prove, verify, export.

`AuditLog` holds events; `payloads` says what each kind records; `merkle` verifies proofs with the standard
library alone. `Checkpoint` and the keys are in `checkpoint` and `keys`, which load the cryptography library.
"""

from lir_agents.audit import payloads
from lir_agents.audit.canonical import Erasable
from lir_agents.audit.events import KINDS, AuditEvent, RecordedEvent
from lir_agents.audit.log import AuditLog, InclusionProof
from lir_agents.audit.merkle import verify_consistency, verify_inclusion
from lir_agents.audit.verify import Problem, VerifyReport

__all__ = [
    "KINDS",
    "AuditEvent",
    "AuditLog",
    "Erasable",
    "InclusionProof",
    "Problem",
    "RecordedEvent",
    "VerifyReport",
    "payloads",
    "verify_consistency",
    "verify_inclusion",
]
