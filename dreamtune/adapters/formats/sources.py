"""Where an adapter's tensors lie: in a file, or in one of the folders that PEFT and diffusers save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dreamtune.errors import AdapterFileError

CONFIG = "adapter_config.json"
_PEFT = "adapter_model.safetensors"
_IN_FOLDERS = (_PEFT, "pytorch_lora_weights.safetensors", "adapter.safetensors")
"""Names that PEFT, diffusers' training scripts and dreamtune give the file in a folder."""
_PICKLES = ("adapter_model.bin", "pytorch_lora_weights.bin", "adapter_model.pt")


@dataclass(frozen=True)
class Source:
    """An adapter on disk."""

    tensors: Path
    """The safetensors file."""
    config: Path | None = None
    """PEFT's options, if it is PEFT's."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of a file or a folder. A folder with one adapter in a folder of its name, as PEFT saves named ones, is that.

        Raises AdapterFileError for a folder without an adapter, with several, or with a pickle alone. A file need not
        exist.
        """
        if not path.is_dir():
            config = path.parent / CONFIG
            return cls(path, config if path.name == _PEFT and config.is_file() else None)
        tensors = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
        config = path / CONFIG if (path / CONFIG).is_file() else None
        if tensors is not None:
            return cls(tensors, config if tensors.name == _PEFT else None)
        pickle = next((path / name for name in _PICKLES if (path / name).is_file()), None)
        if pickle is not None:
            raise AdapterFileError(
                f"{pickle} is a pickle, which could run code and is never opened: save it as .safetensors "
                "(PEFT: save_pretrained with safe_serialization=True)"
            )
        if config is not None:
            raise AdapterFileError(f"{path} has {CONFIG}, but no {_PEFT}: copy the whole folder that PEFT saved")
        named = sorted(it.parent for it in path.glob(f"*/{CONFIG}") if it.is_file())
        if len(named) == 1:
            return cls.of(named[0])
        if named:
            names = ", ".join(str(it) for it in named[:3])
            raise AdapterFileError(f"{path} contains {len(named)} adapters ({names}): use one of them")
        raise AdapterFileError(f"{path} is a folder without an adapter: use an adapter's .safetensors file")


def tensor_file(path: Path) -> Path:
    """The file with an adapter's tensors. Raises AdapterFileError as :meth:`Source.of` does."""
    return Source.of(path).tensors
