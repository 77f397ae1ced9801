"""From what a caller names to an encoder."""

from __future__ import annotations

from pathlib import Path

from lir_agents.encoding.base import Encoder
from lir_agents.encoding.bundled import BUNDLED_NAME, bundled_folder
from lir_agents.encoding.runtime import Precision
from lir_agents.encoding.transformer import TransformerEncoder
from lir_agents.errors import InputError

__all__ = ["open_encoder"]

_BUNDLED_ALIASES = (BUNDLED_NAME, f"sentence-transformers/{BUNDLED_NAME}")


def open_encoder(
    spec: str | Path | Encoder | None = None,
    *,
    dense: str | Path | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> Encoder:
    """Opens an encoder. Cheap: weights are read when the first text is encoded.

    Args:
        spec: None for the bundled all-MiniLM-L6-v2; the folder or hub name of a sentence-transformers model,
            plain or multi-vector; or an encoder, which comes back as it is.
        dense: For a multi-vector model, a plain model whose pooled vector is to be used for the first stage;
            it costs a second forward pass per text.
        device: "cpu", "cuda", …; None: CUDA where there is one.
        precision: "float32" or "bfloat16"; None: bfloat16 where the device computes in it natively.

    Raises:
        InputError: No such model, or one that is unsafe to load; `field` is "encoder".
        IntegrityError: The bundled weights are not the published ones.
    """
    if isinstance(spec, Encoder):
        return spec
    if spec is None or spec in _BUNDLED_ALIASES:
        return TransformerEncoder(bundled_folder(), name=BUNDLED_NAME, device=device, precision=precision)
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise InputError(f"{spec} is not a folder", field="encoder", remedy="Give the folder of a saved model.")
    return TransformerEncoder(folder, name=str(spec), device=device, precision=precision)
