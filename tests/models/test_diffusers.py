"""The diffusers door: what a scheduler says, and that plain diffusers samples what redistill samples."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from redistill.core.errors import UserError  # noqa: E402
from redistill.diffusion.doors import load_denoiser, save_student  # noqa: E402
from redistill.diffusion.score import few_step  # noqa: E402
from redistill.models.diffusers import check_pair, load, read_scheduler  # noqa: E402

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
DDPM = {**diffusers.DDPMScheduler().config, "_class_name": "DDPMScheduler"}


def unet(classes: int | None = 3, side: int = 8) -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=side, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )  # fmt: skip


def plain(code: str, folder) -> torch.Tensor:
    """Run ``code`` in a process in which redistill cannot be imported; it must leave the images in ``out``."""
    block = "import sys; sys.modules['redistill'] = None\n"
    tail = "\nimport safetensors.torch as st, torch\nst.save_file({'out': torch.as_tensor(out).contiguous()}, 'out.st')"
    subprocess.run(
        [sys.executable, "-c", block + code + tail], cwd=folder, check=True, capture_output=True, timeout=120
    )
    from safetensors.torch import load_file

    return load_file(folder / "out.st")["out"]


def as_image(x: torch.Tensor) -> torch.Tensor:
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


LABELS = torch.tensor([0, 1, 2, 0])
V = {**DDPM, "prediction_type": "v_prediction"}
CASES = {"flow": (FLOW, 1), "one": (V, 1), "four": (V, 4)}
CALL = """import torch
from diffusers import DiffusionPipeline
def sample(folder, steps):
    pipe = DiffusionPipeline.from_pretrained(folder)
    return torch.as_tensor(pipe(batch_size=4, class_labels=[0, 1, 2, 0], num_inference_steps=steps, output_type='np',
                                generator=torch.Generator().manual_seed(5)).images)
out = torch.stack([sample('flow', 1), sample('one', 1), sample('four', 4)])"""


def test_a_bare_unet_becomes_a_pipeline_that_plain_diffusers_samples(tmp_path):
    unet().save_pretrained(tmp_path / "net")
    ours = []
    for name, (scheduler, steps) in CASES.items():
        student, source = load_denoiser(tmp_path / "net", scheduler)
        save_student(student, source, tmp_path / name, steps=steps)
        generator = torch.Generator().manual_seed(5)
        noises = [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(steps)]
        with torch.no_grad():
            ours.append(as_image(few_step(student, student.path, student.path.grid(steps)[:-1], noises, LABELS)))
    torch.testing.assert_close(plain(CALL, tmp_path), torch.stack(ours), atol=2e-5, rtol=0)
    assert min(x.std() for x in ours) > 0.05


def test_several_flow_steps_sample_by_the_loop_of_the_readme(tmp_path):
    unet().save_pretrained(tmp_path / "net")
    student, source = load_denoiser(tmp_path / "net", FLOW)
    folder = save_student(student, source, tmp_path / "student", steps=4)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    begin = "import torch; torch.manual_seed(5); condition = torch.tensor([0, 1, 2, 0])\n"
    theirs = plain(begin + code + "\nout = x", folder)
    torch.manual_seed(5)
    noises = [torch.randn(4, 3, 8, 8) for _ in range(4)]
    with torch.no_grad():
        ours = few_step(student, student.path, student.path.grid(4)[:-1], noises, LABELS)
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=1e-4)


def test_a_pipeline_keeps_its_other_parts(tmp_path):
    diffusers.DDPMPipeline(unet(None), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    student, source = load_denoiser(tmp_path / "pipe")
    assert (student.kind, type(student.path).__name__, source.shape) == ("eps", "Vp", (3, 8, 8))
    with torch.no_grad():
        student.net.conv_out.bias += 1
    save_student(student, source, tmp_path / "student", steps=1)
    code = "import diffusers\nout = diffusers.DiffusionPipeline.from_pretrained('.').unet.conv_out.bias.data"
    assert torch.equal(plain(code, tmp_path / "student"), student.net.conv_out.bias.data)
    index = json.loads((tmp_path / "student/model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "LCMScheduler"]


def test_x0_agrees_with_the_scheduler_of_the_folder(tmp_path):
    net, scheduler = (
        unet(),
        diffusers.DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False),
    )
    net.save_pretrained(tmp_path / "net")
    scheduler.save_pretrained(tmp_path / "net")
    denoiser, _ = load_denoiser(tmp_path / "net")
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(10)
    with torch.no_grad():
        theirs = scheduler.step(net(x, 700, LABELS).sample, 700, x).pred_original_sample
        ours = denoiser(x, torch.tensor(0.701), LABELS)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_transformers_go_through(tmp_path):
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=3, norm_num_groups=4,
    )  # fmt: skip
    sd3 = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    text = {"encoder_hidden_states": torch.randn(4, 5, 8), "pooled_projections": torch.randn(4, 8)}
    for net, scheduler, condition in ((dit, DDPM, LABELS), (sd3, {**FLOW, "shift": 3.0}, text)):
        net.save_pretrained(tmp_path / type(net).__name__)
        denoiser, source = load_denoiser(tmp_path / type(net).__name__, scheduler)
        with torch.no_grad():
            x0, features = denoiser.features(torch.randn(4, 4, 8, 8), torch.full((4,), 0.5), condition)
        assert x0.shape == (4, 4, 8, 8)
        assert features.ndim == 3  # [B, tokens, channels]
        save_student(denoiser, source, tmp_path / "out", steps=1)


def test_a_text_conditional_unet_goes_through(tmp_path):
    net = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    net.save_pretrained(tmp_path / "net")
    denoiser, source = load_denoiser(tmp_path / "net", DDPM)
    with torch.no_grad():
        assert denoiser(torch.randn(2, 4, 8, 8), torch.full((2,), 0.5), torch.randn(2, 5, 8)).shape == (2, 4, 8, 8)
    assert (source.role, source.shape) == ("unet", (4, 8, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "VQDiffusionScheduler"}, "no path for the scheduler 'VQDiffusionScheduler'"),
        ({**DDPM, "prediction_type": "epsilom"}, "did you mean 'epsilon'"),
        ({**DDPM, "beta_schedule": "sigmoid"}, "unknown beta_schedule 'sigmoid'"),
        ({**DDPM, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is not supported"),
        ({**FLOW, "use_dynamic_shifting": True}, "depends on the picture's size"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "'v_prediction' is not supported"),
    ],
)
def test_what_no_path_fits_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        read_scheduler(config)


def test_edm_and_flow_are_read():
    edm = read_scheduler({**diffusers.EDMEulerScheduler(sigma_max=70.0).config, "_class_name": "EDMEulerScheduler"})
    assert (edm.kind, edm.path, edm.scale_input, edm.options["sigma_max"]) == ("edm", "edm", True, 70.0)
    assert read_scheduler({**FLOW, "shift": 3.0}).options == {"shift": 3.0}


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="no diffusers folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "LlamaForCausalLM"}')
    with pytest.raises(UserError, match="'LlamaForCausalLM' is no network of diffusers"):
        load(tmp_path)
    unet().save_pretrained(tmp_path / "net")
    with pytest.raises(UserError, match=r"no scheduler_config\.json"):
        load(tmp_path / "net")


def test_a_pair_that_does_not_fit_is_refused(tmp_path):
    unet().save_pretrained(tmp_path / "a")
    unet(side=16).save_pretrained(tmp_path / "b")
    teacher = load(tmp_path / "a", FLOW)
    with pytest.raises(UserError, match=r"its samples are \(3, 16, 16\), the teacher's \(3, 8, 8\)"):
        check_pair(teacher, load(tmp_path / "b", FLOW))
    with pytest.raises(UserError, match="give both one scheduler"):
        check_pair(teacher, load(tmp_path / "a", DDPM))
