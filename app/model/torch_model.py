"""A sentence encoder on torch: the fast runtime on a GPU, and the module that is exported for the other runtimes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import CPU_BATCH_BYTES, DEVICE_BATCH_BYTES
from app.model.folder import ModelFolder
from app.model.token_model import Mask, TokenIds
from app.model.tokens import ModelTokenizer
from schemas.errors import EmbedderUnavailable, HeadraceError, ModelMissing, TextsRefused

# With 2 threads in bf16 (AMX) 209 documents/s; 1,024 tokens padded to a multiple of 8 give 180.
_CPU_TOKENS_PER_CALL = 2048
_CPU_LENGTH_STEP = 16  # a new shape costs 30 ms at first use in bf16
_CUDA_TOKENS_PER_CALL = (2048, 65_536)  # least and most: beyond, a call gains nothing and holds up what waits for it
_CUDA_LENGTH_STEP = 8  # tensor cores want multiples of 8
_SHORT_TOKENS = 8
_CUDA_LANES = 2  # one call copies its tokens in and its vectors out while the other computes
_CUDA_MEMORY_RATIO = 0.5  # of what is free: the allocator keeps pieces, and other processes may share the GPU
_NO_MEMORY = ("out of memory", "can't allocate", "not enough memory", "alloc_failed", "bad_alloc")
_DEVICE_LOST = ("cuda error", "cublas_status", "cudnn_status", "nccl error")

# The NVIDIA driver's control device, and where WSL keeps its library.
_CUDA_SIGNS = (Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libcuda.so.1"))

_MODULES = {"Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize"}
_PROBES = (
    "A mill needs water.",
    "  Leading space, CAPITALS, naïve café\n\nand\ta second paragraph  ",
    "1234.56 €, x_y = f(a[0]) != b; https://example.org/?q=1",
    "漢字かな交じり文 and 한국어, Привет, 😀",
    "unbelievably " * 600,
)


class TorchModel:
    """TokenModel (see there) of any model of sentence-transformers that is fed with tokens, on the CPU or on CUDA."""

    def __init__(
        self, folder: ModelFolder, precision: Literal["f32", "bf16"], threads: int = 0, device: str | None = None
    ) -> None:
        """Import torch and load the model, 4 to 6 s.

        precision: "bf16" is f16 on a GPU that does not compute in bf16. threads: CPU threads of torch in the whole
        process; 0 leaves the number to torch. device: "cpu", "cuda" or "cuda:1"; None is CUDA where there is one.
        Raises ModelMissing.
        """
        self._torch = torch = import_torch()
        if threads:
            torch.set_num_threads(threads)
        self._device = _device(torch, device)
        self._cuda = torch.cuda if self._device != "cpu" else None
        number = _number(torch, precision, self._cuda)
        try:
            self._encoder = load_encoder(folder, number).to(self._place())
        except RuntimeError as error:
            raise ModelMissing(f"torch cannot put {folder.name} on {self._device}: {error}") from error
        self.lanes = _CUDA_LANES if self._cuda else 1
        self._streams = [self._cuda.Stream(self._device) for _ in range(self.lanes)] if self._cuda else []
        place = f"cuda ({self._cuda.get_device_name(self._device)})" if self._cuda else "cpu"
        self.runtime = f"torch {_NUMBER_NAMES[str(number)]} {place}"
        self.length_step = _CUDA_LENGTH_STEP if self._cuda else _CPU_LENGTH_STEP
        self.batch_bytes = DEVICE_BATCH_BYTES if self._cuda else CPU_BATCH_BYTES
        try:
            self.dim = int(self.vectors(*_blank(_SHORT_TOKENS)).shape[1])
            self.tokens_per_call = self._affordable_tokens(folder.max_tokens) if self._cuda else _CPU_TOKENS_PER_CALL
        except (HeadraceError, MemoryError) as error:
            raise ModelMissing(f"{folder.name} does not run as {self.runtime}: {error}") from error

    def vectors(self, ids: TokenIds, mask: Mask, lane: int | None = None) -> NDArray[np.float32]:
        """See TokenModel."""
        try:
            with self._torch.inference_mode(), self._stream(lane):
                found: NDArray[np.float32] = self._encoder(self._moved(ids), self._moved(mask)).cpu().numpy()
                return found
        except Exception as error:  # torch raises RuntimeError and some of its own; the modules raise anything
            raise self._translated(error, ids.shape) from error

    def _place(self) -> Any:
        return self._torch.device(self._device)

    def _moved(self, array: NDArray[Any]) -> Any:
        tensor = self._torch.from_numpy(array)
        if self._cuda is None:
            return tensor
        return tensor.pin_memory().to(self._place(), non_blocking=True)

    def _stream(self, lane: int | None) -> AbstractContextManager[Any]:
        """Where the work is queued: memory is kept for each stream, so a call alone takes the first lane's."""
        if self._cuda is None:
            return nullcontext()
        stream: AbstractContextManager[Any] = self._cuda.stream(self._streams[lane or 0])
        return stream

    def _translated(self, error: Exception, shape: tuple[int, ...]) -> Exception:
        what, said = f"{shape[0]} x {shape[1]} tokens", str(error).lower()
        if isinstance(error, MemoryError) or any(text in said for text in _NO_MEMORY):
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill the memory
            if self._cuda:
                self._cuda.empty_cache()
            return MemoryError(f"torch has no memory for {what}")
        if type(error).__name__ == "AcceleratorError" or any(text in said for text in _DEVICE_LOST):
            return EmbedderUnavailable(f"the GPU failed on {what}; if it stays so, restart the process: {error}")
        return TextsRefused(f"torch failed on {what}: {error}")

    def _affordable_tokens(self, max_tokens: int) -> int:
        """Padded tokens of one call that fit into the free memory, judged by what the longest text takes."""
        cuda: Any = self._cuda
        before = cuda.memory_allocated(self._device)
        cuda.reset_peak_memory_stats(self._device)
        try:
            self.vectors(*_blank(max_tokens))
        except MemoryError:
            return _CUDA_TOKENS_PER_CALL[0]
        token_bytes = max(1, cuda.max_memory_allocated(self._device) - before) / max_tokens
        free_bytes, _ = cuda.mem_get_info(self._device)
        least, most = _CUDA_TOKENS_PER_CALL
        return int(min(most, max(least, free_bytes * _CUDA_MEMORY_RATIO / self.lanes / token_bytes)))


def has_cuda() -> bool:
    """Whether torch may find a CUDA device: a driver, and torch with CUDA. Quick: torch is not imported."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return False
    if not any(sign.exists() for sign in _CUDA_SIGNS) or find_spec("torch") is None:
        return False
    return find_spec("sentence_transformers") is not None and "+cpu" not in metadata.version("torch")


def import_torch() -> Any:
    """The module. Raises ModelMissing where it or sentence-transformers is not installed."""
    # Torch's threads wait for each other after every operation. By default they spin, and where another process needs
    # a core as well, all time goes there: 2 to 7 times the documents/s on two busy cores when they sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import_module("sentence_transformers")
        return import_module("torch")
    except ImportError as error:
        raise ModelMissing(
            f"the reference, the torch runtime and exports need sentence-transformers with torch ({error}): "
            "`pip install sentence-transformers`, or use another runtime (HEADRACE_RUNTIME=auto)"
        ) from error


def why_not_tokens(folder: ModelFolder) -> str | None:
    """Why token ids of tokenizer.json are not all that this model is given; None where they are."""
    config = folder.sentence_config
    wrong = [f"{key} is {config[key]!r}" for key in ("do_lower_case", "tokenizer_name_or_path") if config.get(key)]
    wrong += [f"it has {key}" for key in ("processing_kwargs", "query_expansion") if config.get(key)]
    if "message" in (config.get("modality_config") or {}):
        wrong.append("it has a chat template")
    if folder.prompted:
        wrong.append("it has a default prompt")
    if folder.truncate_dim:
        wrong.append(f"truncate_dim is {folder.truncate_dim}")
    wrong += [f"it has a {module} module" for module in folder.modules if module not in _MODULES]
    if folder.modules[:1] != ["Transformer"]:
        wrong.append("its first module is not a Transformer")
    return ", ".join(wrong) or None


def load_encoder(folder: ModelFolder, number: Any) -> Any:
    """A torch.nn.Module on the CPU, in eval mode, from token ids to sentence vectors, not yet of unit length.

    number: the torch.dtype of the transformer; what follows it computes in float32. Call it with ids (integers) and
    mask (boolean, True at tokens), both of shape (batch, length); gives float32 (batch, dim).
    Raises ModelMissing when the model does not load or is given more than the tokens of tokenizer.json.
    """
    reason = why_not_tokens(folder)
    if reason is not None:
        raise ModelMissing(f"only the reference runtime (HEADRACE_RUNTIME=reference) runs {folder.name}: {reason}")
    torch = import_torch()
    with no_progress_bars():
        try:
            model = import_module("sentence_transformers").SentenceTransformer(
                str(folder.path), device="cpu", local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelMissing(f"sentence-transformers cannot load {folder.path}: {error}") from error
    model.max_seq_length = folder.max_tokens
    _check_tokens(folder, model)
    modules = list(model)
    if type(modules[-1]).__name__ == "Normalize":
        modules.pop()
    for module in modules:
        module.to(torch.float32)
    modules[0].to(number)

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported late
        def __init__(self) -> None:
            super().__init__()
            self.chain = torch.nn.ModuleList(modules)

        def forward(self, ids: Any, mask: Any) -> Any:
            features = {"input_ids": ids.long(), "attention_mask": mask.long()}
            for module in self.chain:
                features = module(features)
                if "sentence_embedding" not in features:  # pooling bf16 would cost accuracy
                    features["token_embeddings"] = features["token_embeddings"].float()
            return features["sentence_embedding"][:, : model.truncate_dim]

    return SentenceEncoder().eval()


def _check_tokens(folder: ModelFolder, model: Any) -> None:
    """Raise ModelMissing where sentence-transformers makes other tokens of a text than tokenizer.json alone."""
    tokenise = getattr(model, "preprocess", None) or model.tokenize  # before sentence-transformers 6
    for text, ids in zip(_PROBES, ModelTokenizer(folder).ids(_PROBES), strict=True):
        features = tokenise([text])
        types = features.get("token_type_ids")
        if features["input_ids"][0].tolist() != ids or (types is not None and types.any()):
            raise ModelMissing(
                f"only the reference runtime (HEADRACE_RUNTIME=reference) runs {folder.name}: sentence-transformers "
                f"gives it other tokens than its tokenizer.json says, as for {text[:40]!r}"
            )


def _device(torch: Any, wanted: str | None) -> str:
    found = bool(torch.cuda.is_available())
    if wanted is None:
        return "cuda" if found else "cpu"
    if wanted != "cpu" and not found:
        raise ModelMissing(f"torch finds no device {wanted!r}: CUDA needs an NVIDIA driver and a torch built for it")
    return wanted


_NUMBER_NAMES = {"torch.float32": "f32", "torch.bfloat16": "bf16", "torch.float16": "f16"}


def _number(torch: Any, precision: str, cuda: Any) -> Any:
    if precision == "f32":
        return torch.float32
    emulated = cuda is not None and not cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def _blank(length: int) -> tuple[TokenIds, Mask]:
    """A batch of one text."""
    return np.zeros((1, length), np.int32), np.ones((1, length), np.bool_)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers loads weights without telling the terminal."""
    bars = import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
