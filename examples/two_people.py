"""Two people ask the same question and get different answers: each explained, each provable afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

from _handbook import DOCUMENTS, GUEST, STAFF

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.audit import verify_inclusion
from lir_agents.audit.keys import load_or_create_key
from lir_agents.policy import AclPolicy

QUESTION = "How do I get into the network?"
AUDITOR = Principal("uma", groups=["group:audit", "group:staff", "group:guests"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = AclPolicy(rights={"replay": ["group:audit"]})
        with LateInteractionIndex.open(Path(folder) / "firm.lir", access=policy) as index:
            index.add(DOCUMENTS)
            asked = {}
            for person in (STAFF, GUEST):
                result = index.search(QUESTION, principal=person, k=3)
                asked[person.id] = result.event_id
                print(f"{person.id}> {QUESTION}")
                for hit in result:
                    best = max(hit.explain().matches, key=lambda match: match.similarity)
                    print(f"  {hit.rank}. {hit.passage_id}: {best.query_token!r} met {best.word!r}")

            # The handbook moves on; what was answered stays provable.
            key = load_or_create_key(Path(folder) / "signing.pem")
            kept_elsewhere = index.audit.checkpoint(key)
            index.add([Document(id="it/vpn", title="VPN", text="The VPN is gone.", acl=["group:staff"])])
            for who, event_id in asked.items():
                event = index.audit.show(event_id)
                proof = index.audit.inclusion_proof(event_id)
                stands = verify_inclusion(proof.leaf, proof.index, proof.size, proof.path, index.audit.root())
                report = index.replay(event_id, principal=AUDITOR)
                print(
                    f"{who}: {event['policy']['reason']}; in the log: {stands}; "
                    f"asked again as of epoch {report.epoch}, the same: {report.same}"
                )
            print(f"log as the checkpoint saw it: {index.audit.verify(kept_elsewhere, key.public_key()).ok}")


if __name__ == "__main__":
    main()
