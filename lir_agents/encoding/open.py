"""From what a caller names to an encoder."""

from __future__ import annotations

from pathlib import Path

from lir_agents.config import EncoderSettings, load_settings
from lir_agents.encoding.base import Encoder
from lir_agents.encoding.bundled import BUNDLED_NAME, bundled_folder
from lir_agents.encoding.hub import hub_folder, is_hub_name
from lir_agents.encoding.multivector import MultiVectorEncoder
from lir_agents.encoding.multivector_checkpoint import is_multi_vector
from lir_agents.encoding.runtime import Precision
from lir_agents.encoding.transformer import TransformerEncoder
from lir_agents.errors import ConfigError, InputError

__all__ = ["open_encoder"]

_BUNDLED = (None, BUNDLED_NAME, f"sentence-transformers/{BUNDLED_NAME}")


def open_encoder(
    spec: str | Path | Encoder | None = None,
    *,
    dense: str | Path | Encoder | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    settings: EncoderSettings | None = None,
) -> Encoder:
    """Opens an encoder. Cheap: weights are read when the first text is encoded.

    Args:
        spec: None for the bundled all-MiniLM-L6-v2; the folder or hub name of a sentence-transformers model,
            plain or multi-vector; or an encoder, which comes back as it is. A folder is never looked up on a
            network.
        dense: For a multi-vector model, a plain model whose pooled vectors the first stage is to use; it costs
            a second forward pass per text. Without one, they are the mean of the model's own token vectors.
        device: "cpu", "cuda", …; None: CUDA where there is one.
        precision: "float32" or "bfloat16"; None: bfloat16 where the device computes in it natively.
        settings: Which library runs a plain model, and on how many threads; None reads the environment and
            lir.toml. A multi-vector model runs in torch.

    Raises:
        InputError: No such model, or one that is unsafe to load; `field` is "encoder".
        ConfigError: A setting is wrong, or `dense` was given for a plain model, which needs none.
        IntegrityError: The bundled weights are not the published ones.
    """
    if spec is not None and not isinstance(spec, str | Path):
        return _given(spec)
    if spec in _BUNDLED:
        folder, name = bundled_folder(), BUNDLED_NAME
    else:
        folder, name = _folder(str(spec)), str(spec)
    if is_multi_vector(folder):
        second = (
            None if dense is None else open_encoder(dense, device=device, precision=precision, settings=settings)
        )
        return MultiVectorEncoder(folder, name=name, dense=second, device=device, precision=precision)
    if dense is not None:
        raise ConfigError(
            f"dense={dense!r} was given, and {name} has a pooled vector of its own",
            setting="dense",
            remedy="Leave it out; it is for multi-vector models.",
        )
    settings = settings or load_settings().encoder
    return TransformerEncoder(folder, name=name, device=device, precision=precision, settings=settings)


def _given(encoder: Encoder) -> Encoder:
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"is {type(encoder).__name__}", field="encoder", remedy="Pass a folder, a hub name, an Encoder or None."
        )
    return encoder


def _folder(spec: str) -> Path:
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return folder
    if is_hub_name(spec) and not folder.exists():
        return hub_folder(spec)
    raise InputError(
        f"{spec!r} is no folder of a model",
        field="encoder",
        remedy="Give the folder of a saved model, a hub name such as organisation/model, or the Encoder itself.",
    )
