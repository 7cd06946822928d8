"""From the words of a recipe to networks, and from a student back to what plain libraries load."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from redistill import catalog, files
from redistill.core.build import checked_options, one_of
from redistill.core.errors import UserError, need, reading, unknown
from redistill.models import usage
from redistill.named import factory

# A kind of another library: its loader, (path, **options) -> a network, or that and what it is written back with.
LIBRARIES: dict[str, str] = {
    "causal_lm": "redistill.models.transformers:load_causal_lm",
    "classifier": "redistill.models.transformers:load_classifier",
    "diffusers": "redistill.diffusion.doors:load_denoiser",
}


def kinds() -> list[str]:
    """The words that a recipe has for where a network comes from."""
    return [*LIBRARIES, *MAKERS, "copy"]


class ModelSpec(BaseModel):
    """Where a network comes from."""

    model_config = ConfigDict(extra="forbid")
    kind: Annotated[str, AfterValidator(one_of(kinds))] = Field(
        description="causal_lm, classifier: transformers folders; torch: a factory; copy: of another role"
    )
    path: str = Field("", description="folder, file, name (timm), module:factory (torch) or role (copy)")
    options: dict[str, Any] = {}
    weights: Path | None = Field(None, description="safetensors with the weights of a torch or timm network")


def load_models(specs: dict[str, ModelSpec]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Role -> network, and role -> what is needed to write a student of its kind back."""
    from redistill.models.checks import check_values

    models: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for role, spec in sorted(specs.items(), key=lambda item: item[1].kind == "copy"):
        place = f"models.{role}"
        if spec.kind == "copy":
            if spec.path not in models:
                raise unknown("role to copy", spec.path, models, place=f"{place}.path")
            models[role], sources[role] = copy.deepcopy(models[spec.path]), sources[spec.path]
        elif spec.kind in MAKERS:
            models[role], sources[role] = with_weights(MAKERS[spec.kind](spec, place), spec, place), None
        else:
            models[role], sources[role] = _from_library(spec, place)
        check_values(models[role], place)
    return models, sources


def origin(specs: dict[str, ModelSpec], role: str) -> ModelSpec:
    """Where the network of ``role`` comes from in the end, if it is the copy of another."""
    while specs[role].kind == "copy":
        role = specs[role].path
    return specs[role]


def make_anew(specs: dict[str, ModelSpec], role: str) -> Any:
    """A network as the recipe's loader makes that of ``role``, without stored weights."""
    return load_models({role: origin(specs, role).model_copy(update={"weights": None})})[0][role]


def _from_library(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    loader = catalog.load(LIBRARIES[spec.kind])
    options = checked_options(loader, spec.options, f"{place}.options")
    with reading(f"cannot load {spec.path[:60]!r}", place=place):
        try:
            loaded = loader(spec.path, **options)
        except UserError as mistake:
            raise UserError(str(mistake), place=place) from mistake
    return loaded if isinstance(loaded, tuple) else (loaded, None)


def _timm(spec: ModelSpec, place: str) -> Any:
    with reading("the package 'timm' cannot be imported", place=place, remedy="redistill doctor says more"):
        try:
            import timm
        except ModuleNotFoundError as error:
            if error.name == "timm":
                raise need("timm", "timm") from error
            raise
    with reading(f"timm cannot make {spec.path!r}", place=place):
        return timm.create_model(spec.path, **spec.options)


def _torch(spec: ModelSpec, place: str) -> Any:
    files.check_not_pickled(spec.path, f"{place}.path", f"give module:function as path, and {_SAVED} as weights")
    make = factory(spec.path, f"{place}.path")
    with reading(f"{spec.path} does not take these options", place=f"{place}.options"):
        try:
            net = make(**spec.options)
        except UserError as mistake:
            raise UserError(str(mistake), place=f"{place}.options") from mistake
    if net is None:
        raise UserError(f"{spec.path} gives nothing; it must return the network", place=f"{place}.path")
    return net


_SAVED = "what safetensors.torch.save_file(net.state_dict(), file) writes"
MAKERS: dict[str, Callable[[ModelSpec, str], Any]] = {"timm": _timm, "torch": _torch}  # these take stored weights


def with_weights(net: Any, spec: ModelSpec, place: str) -> Any:
    """``net`` with the stored weights that ``spec`` names, if it names any: all of them and no others."""
    if spec.weights is None:
        return net
    from safetensors.torch import load_model

    there = f"{place}.weights"
    file = files.existing(spec.weights, there)
    files.check_not_pickled(file, there, f"give {_SAVED}")
    with reading(f"{spec.weights} is no whole safetensors file", place=there, remedy="save it again"):
        try:  # knows that tied weights are stored once
            missing, unexpected = load_model(net, file, strict=False)
        except RuntimeError as error:  # its second line names the first keys or shapes that differ
            why = " ".join(str(error).split("\n\t")[1:2])[:200] or files.first_line(error)
            raise UserError(f"{spec.weights} does not fit the network ({why.strip()})", place=there) from error
    for what, names in (("lacks", missing), ("has the unknown", unexpected)):
        if names:
            raise UserError(f"{spec.weights} does not fit the network (it {what} {sorted(names)[0]!r})", place=there)
    return net


def check_export(source: Any, steps: int) -> None:
    """Refuse, before it is trained, a student that no scheduler of diffusers can sample."""
    if source is not None:
        from redistill.models.diffusers import scheduler_for

        scheduler_for(source.reading, steps)


def check_merge(student: Any, merge: bool) -> None:
    """Refuse to write an adapter apart where there is none."""
    if not merge and not getattr(student, "has_adapter", False):
        raise UserError(
            "the student has no adapter; give models.student.options.lora_rank, or leave it out", place="merge"
        )


def save_student(
    student: Any,
    source: Any,
    folder: Path,
    steps: int,
    *,
    spec: ModelSpec,
    shape: Sequence[int] | None = None,
    merge: bool = True,
) -> str:
    """Write a student as its own library stores it, or (not ``merge``) its adapter alone, with a README that loads and
    calls it; returns how to load it. ``spec``: where it came from; ``shape``: of the pictures that it reads, if any.
    """
    if source is not None:
        from redistill.models import diffusers

        diffusers.save(replace(source, net=student.net), folder, steps=steps)
        return f"a diffusers folder; {folder / 'README.md'} says how to sample"
    if not merge:
        student.save(folder, merge=False)
        base = str(Path(spec.path).resolve()) if Path(spec.path).exists() else spec.path
        usage.write(folder, "An adapter", usage.ADAPTER.format(base=base))
        return f"a peft adapter: PeftModel.from_pretrained(base, {str(folder)!r})"
    if hasattr(student, "save"):
        student.save(folder)
        usage.write(folder, "A student", usage.CAUSAL_LM if hasattr(student, "generate") else usage.CLASSIFIER)
        return f"a transformers folder: from_pretrained({str(folder)!r})"
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(student, str(folder / "model.safetensors"))
    if _is_as_made(student, spec):  # a method may export a network of its own making
        usage.write(folder, "A student", usage.plain(spec.kind, spec.path, spec.options, shape))
    return f"weights for load_state_dict: {folder / 'model.safetensors'}"


def _is_as_made(student: Any, spec: ModelSpec) -> bool:
    """Whether the factory of ``spec`` makes a network that takes the weights of ``student``."""
    made = make_anew({"student": spec}, "student")
    return type(made) is type(student) and made.state_dict().keys() == student.state_dict().keys()
