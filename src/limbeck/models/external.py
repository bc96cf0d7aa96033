"""Networks from elsewhere: functions of installed code (timm and torchvision have their files)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from limbeck.errors import ModelError, unknown
from limbeck.models.from_timm import one_line

FORM = "'py:module:function', for example 'py:mypackage.networks:build'"


def build_python(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
    arguments: Mapping[str, Any],
    *,
    allow_code: bool = False,
) -> nn.Module:
    """Call the function or class that ``py:module:function`` names and return its module.

    ``num_classes`` and ``input_shape`` are passed where the function takes them. Without
    ``allow_code`` only installed packages are imported: nothing from the working folder, and
    nothing from the standard library, which has no networks but has ``os.system``. With it the
    working folder is looked in as well, after everything that is installed.
    """
    function = _find(name, allow_code)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"model {name!r}: {name.split(':')[2]} is not a function") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any:
        for key in arguments:
            if key not in parameters:
                raise ModelError(unknown(f"argument of model {name!r}:", key, parameters))
    given = {"num_classes": num_classes, "input_shape": input_shape}
    passed = {k: v for k, v in given.items() if v is not None and (takes_any or k in parameters)}
    try:
        model = function(**{**passed, **arguments})
    except TypeError as error:
        raise ModelError(f"model {name!r}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} gave a {type(model).__name__}, expected an nn.Module")
    return model


def _find(name: str, allow_code: bool) -> Any:
    parts = name.split(":")
    if len(parts) != 3 or not all(parts[1:]):
        raise ModelError(f"model {name!r} is not of the form {FORM}")
    module = _import(name, parts[1], allow_code)
    found: Any = module
    for attribute in parts[2].split("."):
        if not hasattr(found, attribute):
            names = [key for key, value in vars(module).items() if callable(value)]
            raise ModelError(f"model {name!r}: " + unknown("function", parts[2], names))
        found = getattr(found, attribute)
    if not callable(found):
        raise ModelError(f"model {name!r}: {parts[2]} is a {type(found).__name__}, not a function")
    # A function that the module only imported ("from os import system") is judged by its home.
    home = getattr(found, "__module__", None) or parts[1]
    if not allow_code and not _is_installed(str(home).split(".")[0]):
        raise _refusal(name, str(home))
    return found


def _import(name: str, module: str, allow_code: bool) -> ModuleType:
    top = module.split(".")[0]
    # find_spec of a dotted name imports its parents: look at the top-level package first.
    if not allow_code and (_in_working_folder(top) or _spec_exists(top)) and not _is_installed(top):
        raise _refusal(name, module)
    if allow_code and not _spec_exists(top) and _in_working_folder(top):
        # A console script has its own folder there, not the one it is started in. It stays: what
        # is imported may import its neighbours later.
        sys.path.append(str(Path.cwd()))
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            message = f"model {name!r}: there is no installed module {error.name!r}"
            message += f", nor in the working folder {Path.cwd()}" if allow_code else ""
        else:
            message = f"model {name!r}: importing {module} failed: {error}"
        raise ModelError(message) from error
    except Exception as error:
        raise ModelError(f"model {name!r}: importing {module} failed: {one_line(error)}") from error


def _refusal(name: str, module: str) -> ModelError:
    return ModelError(
        f"model {name!r}: {module} is not an installed package of networks, and a recipe does not "
        "run other code: install it, or pass --allow-code (allow_code=True)"
    )


def _in_working_folder(top: str) -> bool:
    return Path(f"{top}.py").is_file() or Path(top).is_dir()


def _spec_exists(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _is_installed(top: str) -> bool:
    """Whether a top-level package lies under site-packages (or is limbeck itself)."""
    if top == "limbeck":
        return True
    if top == "__main__" or top in {*sys.stdlib_module_names, *sys.builtin_module_names}:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # modules made by hand have no spec
        return False
    if spec is None:
        return False
    files = list(spec.submodule_search_locations or [])
    if spec.origin and spec.origin not in {"built-in", "frozen", "namespace"}:
        files.append(spec.origin)
    roots = _installed_folders()
    return bool(files) and all(
        any(Path(file).resolve().is_relative_to(root) for root in roots) for file in files
    )


def _installed_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder).resolve() for folder in folders]
