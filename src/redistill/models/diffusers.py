"""The door to diffusers: a folder in, the plain values that a denoiser needs; a student out, for plain diffusers.

In: a pipeline, or one network (``UNet2DModel``, ``UNet2DConditionModel``, ``DiTTransformer2DModel``, flow transformers)
with its scheduler's configuration, which says what the network predicts and on which path. Weights are read from
safetensors only. Out: :func:`save`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from redistill import files
from redistill.core.errors import UserError, need, reading, unknown
from redistill.models import usage as readme

KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_POSITIONAL = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")  # net(x, timestep, condition)


@dataclass(frozen=True)
class Reading:
    """What a scheduler's configuration says: prediction kind, path (by its word) and the path's options."""

    kind: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    scale_input: bool = False


@dataclass(frozen=True)
class Network:
    """A network that answers ``net(x, timestep, condition)``, how to read its answer, and where it came from.

    ``shape``: of one sample, [C, H, W]. ``role``: its name in a pipeline. ``bottleneck``: submodule with the features
    that a discriminator reads. ``pipeline``: the whole pipeline, if it came from one.
    """

    net: Any
    reading: Reading
    shape: tuple[int, ...]
    role: str
    bottleneck: str
    pipeline: Any = None


class KeywordCall(nn.Module):
    """Networks whose arguments stand in another order: ``net(hidden_states=x, timestep=t, **condition)``."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor, **condition: Any) -> Tensor:
        return self.net(hidden_states=x, timestep=timestep, **condition, return_dict=False)[0]


class MeanOnly(nn.Module):
    """DiT with learned variance: its answer without the second half of the channels."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.net(x, timestep, condition, return_dict=False)[0][:, : x.shape[1]]


# --- in ---------------------------------------------------------------------------------------------------------------


def load(folder: str | Path, scheduler: str | Path | Mapping[str, Any] | None = None) -> Network:
    """The network in a diffusers ``folder``. ``scheduler``: its configuration (a mapping, or a folder with one) where
    the folder has none. Raises :class:`UserError` for anything else than such a folder, and for what no path fits.
    """
    folder, pipeline = Path(folder), None
    if folder.is_file():
        files.check_not_pickled(folder, str(folder), "give a diffusers folder with safetensors")
    if (folder / "model_index.json").is_file():
        files.json_table(folder / "model_index.json", str(folder))
        pipeline = _read(_diffusers().DiffusionPipeline, folder)
        role = next((r for r in ("unet", "transformer") if getattr(pipeline, r, None) is not None), None)
        if role is None:
            raise UserError(f"{type(pipeline).__name__} has neither a 'unet' nor a 'transformer'", place=str(folder))
        net = _whole(getattr(pipeline, role), folder / role)
        config = {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}
    else:
        net, config = _network(folder), None
        role = "unet" if "UNet" in type(net).__name__ else "transformer"
    reading = read_scheduler(_configuration(scheduler, folder) if scheduler or config is None else config)
    return _prepared(net.eval(), reading, role, pipeline)


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as missing:
        raise need("diffusion", "diffusers") from missing
    return diffusers


def _network(folder: Path) -> Any:
    """The single network in ``folder``."""
    if not (folder / "config.json").is_file():
        remedy = "give a folder with model_index.json (a pipeline) or config.json (one network)"
        raise UserError(f"no diffusers folder; {remedy}", place=str(folder))
    word = str(files.json_table(folder / "config.json", str(folder)).get("_class_name", ""))
    cls = getattr(_diffusers(), word, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UserError(f"{word!r} is no network of diffusers", place=f"{folder}/config.json")
    if not any(kind in word for kind in ("UNet", "Transformer", "DiT")):
        raise UserError(f"{word} takes no noise away; give a UNet or a transformer", place=f"{folder}/config.json")
    return _whole(_read(cls, folder), folder)


def _read(cls: Any, folder: Path) -> Any:
    """What diffusers loads from ``folder``; what it says of a folder that it cannot read, in one line."""
    for part in (folder, *(inside for inside in folder.iterdir() if inside.is_dir())):
        files.check_not_pickled(part, str(folder), "load it once and save_pretrained(folder, safe_serialization=True)")
    with reading("diffusers cannot load it", place=str(folder)):
        return cls.from_pretrained(folder, use_safetensors=True, local_files_only=True)


def _whole(net: Any, place: Path) -> Any:
    """``net``, if its file held every weight: diffusers leaves those that it lacked without values."""
    lacking = [name for name, p in net.named_parameters() if p.is_meta]
    if lacking:
        said = f"its weights are another network's: {len(lacking)} are missing, as {lacking[0]}"
        raise UserError(f"{said}; give the weights that belong to its config.json", place=str(place))
    return net


def _configuration(scheduler: str | Path | Mapping[str, Any] | None, folder: Path) -> Mapping[str, Any]:
    """A scheduler's configuration from where the caller says, or from beside the network."""
    if isinstance(scheduler, Mapping):
        return scheduler
    places = [Path(scheduler or folder) / sub / "scheduler_config.json" for sub in ("", "scheduler")]
    if scheduler is None:
        places.append(folder.parent / "scheduler" / "scheduler_config.json")
    file = next((p for p in places if p.is_file()), None)
    if file is None:
        raise UserError("has no scheduler_config.json, so nobody knows what the network predicts; give scheduler=",
                        place=str(scheduler or folder))  # fmt: skip
    return files.json_table(file, str(folder))


def read_scheduler(config: Mapping[str, Any]) -> Reading:
    """Prediction kind and path from a scheduler's configuration (``_class_name`` and its options)."""
    name, prediction = str(config.get("_class_name", "")), str(config.get("prediction_type", "epsilon"))
    if name.startswith("FlowMatch") or prediction == "flow_prediction":
        return _read_flow(config, name)
    if name.startswith("EDM"):
        return _read_edm(config, name, prediction)
    if "beta_schedule" not in config:
        raise UserError(f"no path for the scheduler {name!r}; DDPM-like, EDM and FlowMatch schedulers have one",
                        place="scheduler")  # fmt: skip
    if prediction not in KINDS:
        raise unknown("prediction_type", prediction, [*KINDS, "flow_prediction"], place=f"scheduler {name}")
    if str(config["beta_schedule"]) not in SCHEDULES:
        raise unknown("beta_schedule", str(config["beta_schedule"]), SCHEDULES, place=f"scheduler {name}")
    for odd in ("trained_betas", "rescale_betas_zero_snr"):
        if config.get(odd):
            raise UserError(f"{odd} is not supported; valid: the plain {SCHEDULES}", place=f"scheduler {name}")
    betas = {key: _number(config, key, name) for key in ("beta_start", "beta_end")}
    table = int(_number({"num_train_timesteps": 1000, **config}, "num_train_timesteps", name))
    return Reading(KINDS[prediction], "vp", {**betas, "schedule": config["beta_schedule"], "table": table})


def _number(config: Mapping[str, Any], key: str, name: str) -> float:
    """A number above 0 of a scheduler's configuration, as it stands there."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{key} is {value!r}; give a number above 0", place=f"scheduler {name}")
    return value


def _read_flow(config: Mapping[str, Any], name: str) -> Reading:
    if config.get("use_dynamic_shifting"):
        raise UserError("its shift depends on the picture's size; give scheduler= with use_dynamic_shifting: false "
                        "and the shift that you want", place=f"scheduler {name}")  # fmt: skip
    if config.get("invert_sigmas"):
        raise UserError("inverted times are not supported", place=f"scheduler {name}")
    key = "shift" if config.get("shift") or not config.get("flow_shift") else "flow_shift"
    return Reading("flow", "flow", {"shift": float(_number({**config, key: config.get(key) or 1.0}, key, name))})


def _read_edm(config: Mapping[str, Any], name: str, prediction: str) -> Reading:
    if prediction != "epsilon":
        raise UserError(f"prediction_type {prediction!r} is not supported; valid: epsilon", place=f"scheduler {name}")
    options = {k: _number(config, k, name) for k in ("sigma_min", "sigma_max", "rho", "sigma_data") if k in config}
    return Reading("edm", "edm", options, scale_input=True)


def _prepared(net: Any, reading: Reading, role: str, pipeline: Any) -> Network:
    """Wrap what is called otherwise, and find the sample's shape and the bottleneck."""
    config: Any = net.config
    side = config.sample_size
    sides = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
    word = type(net).__name__
    bottleneck = "mid_block"
    if word == "DiTTransformer2DModel":
        bottleneck = f"transformer_blocks.{config.num_layers // 2}"
        if config.out_channels not in (None, config.in_channels):
            net, bottleneck = MeanOnly(net), f"net.{bottleneck}"
    elif word not in _POSITIONAL:
        net, bottleneck = KeywordCall(net), "net.norm_out"
    return Network(net, reading, (config.in_channels, *sides), role, bottleneck, pipeline)


def check_pair(teacher: Network, student: Network) -> None:
    """Raise :class:`UserError` unless both see samples of one shape and answer on one path."""
    if teacher.shape != student.shape:
        raise UserError(
            f"its samples are {student.shape}, the teacher's {teacher.shape}; make them agree", place="student"
        )
    if (teacher.reading.path, teacher.reading.options) != (student.reading.path, student.reading.options):
        ours, theirs = (f"{n.reading.path} {n.reading.options}" for n in (student, teacher))
        raise UserError(f"its path is {ours}, the teacher's {theirs}; give both one scheduler", place="student")


# --- out --------------------------------------------------------------------------------------------------------------

Sampling = Literal["renoise", "ode"]


def save(network: Network, folder: str | Path, *, steps: int, sampling: Sampling = "renoise") -> Path:
    """Write ``network`` for plain diffusers, with a scheduler that samples in ``steps`` steps, and a README that says
    how. ``sampling``: fresh noise between the steps (DMD2, LCM) or the deterministic ODE (DDIM, Euler).

    A network from a pipeline goes back into it. A bare ``UNet2DModel`` becomes a ``ConsistencyModelPipeline`` where a
    stock scheduler fits that (any steps on a VP path, one on the flow path); all else is network and scheduler in two
    folders with a loop of ten lines.
    """
    folder, diffusers = Path(folder), _diffusers()
    net = getattr(network.net, "net", network.net)
    if network.pipeline is not None:
        setattr(network.pipeline, network.role, net)
        network.pipeline.scheduler = scheduler_for(network.reading, steps, sampling)
        network.pipeline.save_pretrained(folder)
        usage = _CALL.format(arguments=f"..., num_inference_steps={steps}")
    elif type(net).__name__ == "UNet2DModel" and (network.reading.path == "vp" or _one_flow_step(network, steps)):
        scheduler = _flow_once() if network.reading.path == "flow" else scheduler_for(network.reading, steps, sampling)
        diffusers.ConsistencyModelPipeline(net, scheduler).save_pretrained(folder)
        labels = ", class_labels=[0, 1, 2, 0]" if net.config.num_class_embeds else ""
        usage = _CALL.format(arguments=f"batch_size=4{labels}, num_inference_steps={steps}")
    else:
        scheduler = scheduler_for(network.reading, steps, sampling)
        net.save_pretrained(folder / network.role)
        scheduler.save_pretrained(folder / "scheduler")
        usage = _loop(network, net, scheduler, steps)
    readme.write(folder, f"A student of {steps} step{'s' * (steps > 1)}", usage)
    return folder


def _one_flow_step(network: Network, steps: int) -> bool:
    return network.reading.path == "flow" and steps == 1


def scheduler_for(reading: Reading, steps: int, sampling: Sampling = "renoise") -> Any:
    """The stock scheduler whose ``steps`` times are those of a uniform grid on the path: 1, 1 - 1/steps, ..."""
    diffusers, options = _diffusers(), reading.options
    renoise = sampling == "renoise" and steps > 1
    if reading.path == "flow":
        if steps > 1 and options.get("shift", 1.0) != 1.0:
            raise UserError(
                "no stock scheduler has several steps on a shifted flow; take 1 step or shift 1", place="steps"
            )
        terminal = 1 / steps if steps > 1 else None
        return diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=terminal, stochastic_sampling=renoise)
    if reading.path == "edm":
        if renoise:
            raise UserError("no stock scheduler adds fresh noise on an EDM path; take 1 step, or save with "
                            "sampling='ode'", place="steps")  # fmt: skip
        return diffusers.EDMEulerScheduler(**options)
    betas = {k: options[k] for k in ("beta_start", "beta_end")} | {"beta_schedule": options["schedule"]}
    prediction = next(word for word, kind in KINDS.items() if kind == reading.kind)
    common = {**betas, "num_train_timesteps": options["table"], "prediction_type": prediction, "clip_sample": False}
    if sampling == "ode":
        return diffusers.DDIMScheduler(**common, timestep_spacing="trailing", set_alpha_to_one=True)
    # timestep_scaling: LCM's boundary blend c_skip, c_out becomes 0, 1, so that the network's x0 is what comes out
    return diffusers.LCMScheduler(**common, original_inference_steps=steps, timestep_scaling=1e9)


def _flow_once() -> Any:
    """One Euler step of the flow from t = 1, for a pipeline that FlowMatch schedulers do not fit.

    DPM-Solver's flow sigmas begin at 1 - 1/1001; the shift takes that to 1 - 1e-7, and as times are rounded down the
    network is told 1000, as the path's clock does.
    """
    return _diffusers().DPMSolverMultistepScheduler(
        num_train_timesteps=1001,
        solver_order=1,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1e4,
    )


_CALL = """from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
images = pipeline({arguments}).images"""

_LOOP = """import torch
from diffusers import {network}, {scheduler}

net = {network}.from_pretrained("{role}")
scheduler = {scheduler}.from_pretrained("scheduler")
scheduler.set_timesteps({steps})
x = torch.randn(4, {shape}) * getattr(scheduler, "init_noise_sigma", 1.0)
for t in scheduler.timesteps:
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    with torch.no_grad():
        x = scheduler.step(net({call}).sample, t, x).prev_sample"""


def _loop(network: Network, net: Any, scheduler: Any, steps: int) -> str:
    positional = type(net).__name__ in _POSITIONAL
    call = "seen, t.expand(4), condition" if positional else "hidden_states=seen, timestep=t.expand(4), **condition"
    if type(net).__name__ == "UNet2DModel" and not net.config.num_class_embeds:
        call = "seen, t.expand(4)"
    names = {"network": type(net).__name__, "scheduler": type(scheduler).__name__, "role": network.role}
    return _LOOP.format(**names, steps=steps, shape=", ".join(map(str, network.shape)), call=call)
