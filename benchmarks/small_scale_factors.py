"""What `benchmarks.small_scale` tries: one base, and settings that differ from it in one factor each.

The base is the recipe `cifar10-cpu` cut down until a run takes about a minute of one core: a narrower
backbone, fewer prototypes, a teacher that follows faster. A setting is a mapping of dotted settings of
`nexus train`; those below `search.` are not there (yet) and are understood by the benchmark alone.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

BASE: Settings = {
    "model.arch": "vit_tiny_patch4",
    "model.depth": 3,
    "model.embed_dim": 96,
    "model.num_heads": 2,
    "model.init_values": 1.0,
    "objective.out_dim": 512,
    "objective.hidden_dim": 256,
    "objective.bottleneck_dim": 64,
    "crops.global_size": 32,
    "crops.local_size": 16,
    "crops.local_number": 4,
    "crops.global_scale": [0.4, 1.0],
    "crops.local_scale": [0.1, 0.4],
    "crops.blur_global1": 0.0,
    "crops.blur_global2": 0.1,
    "crops.blur_local": 0.1,
    "crops.solarize_global2": 0.1,
    "schedule.batch_size": 64,
    "optim.lr": 6.0e-3,
    "optim.layer_decay": 1.0,
    "optim.patch_embed_lr": 1.0,
    "optim.weight_decay_end": 0.1,
    "optim.freeze_last_layer_steps": 0,
    "teacher.momentum": 0.98,
    "teacher.temp_start": 0.03,
    "teacher.temp": 0.03,
    "teacher.temp_warmup_steps": 0,
    "compute.device": "cpu",
    "data.engine": "resident",
    "data.workers": 0,
}

DIGITS: Settings = {
    **BASE,
    "model.arch": "vit_tiny_patch7",
    "crops.global_size": 28,
    "crops.local_size": 14,
    "crops.flip": 0.0,
    "crops.saturation": 0.0,
    "crops.hue": 0.0,
    "crops.grayscale": 0.0,
    "crops.solarize_global2": 0.0,
    "teacher.momentum": 0.95,
}
"""For MNIST: 16 patches of 7 px, so that something is learned within half a minute."""

BASES: Mapping[str, Settings] = {"cifar": BASE, "digits": DIGITS}

NO_IBOT, NO_KOLEO = {"objective.ibot_weight": 0.0}, {"objective.koleo_weight": 0.0}
MUON: Settings = {"optim.optimizer": "muon"}

FACTORS: Mapping[str, Mapping[str, Settings]] = {
    "terms": {
        "DINO": {**NO_IBOT, **NO_KOLEO},
        "DINO + KoLeo": NO_IBOT,
        "DINO + iBOT": NO_KOLEO,
        "iBOT + KoLeo": {"objective.dino_weight": 0.0},
    },
    "centering": {
        "Sinkhorn-Knopp": {"objective.centering": "sinkhorn_knopp"},
        "Sinkhorn-Knopp at 0.06": {
            "objective.centering": "sinkhorn_knopp",
            "teacher.temp_start": 0.06,
            "teacher.temp": 0.06,
        },
    },
    "momentum": {"0.95": {"teacher.momentum": 0.95}, "0.992": {"teacher.momentum": 0.992}},
    "local crops": {
        "none": {"crops.local_number": 0},
        "2": {"crops.local_number": 2},
        "8": {"crops.local_number": 8},
    },
    "augmentation": {
        "half the jitter": {
            "crops.brightness": 0.2,
            "crops.contrast": 0.2,
            "crops.saturation": 0.1,
            "crops.hue": 0.05,
        },
        "twice the jitter": {
            "crops.brightness": 0.8,
            "crops.contrast": 0.8,
            "crops.saturation": 0.4,
            "crops.hue": 0.2,
        },
        "no colours": {"crops.jitter": 0.0, "crops.grayscale": 0.0, "crops.solarize_global2": 0.0},
    },
    "KoLeo weight": {"0.3": {"objective.koleo_weight": 0.3}, "1": {"objective.koleo_weight": 1.0}},
    "prototypes": {"128": {"objective.out_dim": 128}, "4096": {"objective.out_dim": 4096}},
    "teacher temperature": {
        "0.04": {"teacher.temp_start": 0.04, "teacher.temp": 0.04},
        "0.04 to 0.07": {"teacher.temp_start": 0.04, "teacher.temp": 0.07, "teacher.temp_warmup_steps": 60},
        "0.02": {"teacher.temp_start": 0.02, "teacher.temp": 0.02},
    },
    "learning rate": {"3e-3": {"optim.lr": 3.0e-3}, "1.2e-2": {"optim.lr": 1.2e-2}},
    "batch": {
        "32, twice the steps": {"schedule.batch_size": 32},
        "128, half the steps": {"schedule.batch_size": 128},
    },
    "crop size": {
        "global crops from 0.2": {"crops.global_scale": [0.2, 1.0]},
        "local crops of 12 px": {"crops.local_size": 12},
    },
    "optimizer": {"Muon": MUON},
    "with Muon": {
        "Sinkhorn-Knopp": {**MUON, "objective.centering": "sinkhorn_knopp"},
        "rate 1.2e-2": {**MUON, "optim.lr": 1.2e-2},
        "rate 3e-3": {**MUON, "optim.lr": 3.0e-3},
        "8 local crops": {**MUON, "crops.local_number": 8},
        "momentum 0.992": {**MUON, "teacher.momentum": 0.992},
        "momentum 0.95": {**MUON, "teacher.momentum": 0.95},
        "1024 prototypes": {**MUON, "objective.out_dim": 1024},
        "global crops from 0.2": {**MUON, "crops.global_scale": [0.2, 1.0]},
        "DINO": {**MUON, **NO_IBOT, **NO_KOLEO},
        "DINO + KoLeo": {**MUON, **NO_IBOT},
        "DINO + iBOT": {**MUON, **NO_KOLEO},
    },
    "masking": {
        "all images": {"masks.probability": 1.0},
        "up to 0.7": {"masks.ratio_max": 0.7},
    },
    "patch size": {"8": {"model.arch": "vit_tiny_patch8"}},
    "registers": {"4": {"model.num_register_tokens": 4}},
    "head": {
        "two layers": {"objective.head_layers": 2},
        "wide, 1024": {"objective.hidden_dim": 1024},
        "bottleneck 256": {"objective.bottleneck_dim": 256},
        "separate for patches": {"objective.separate_patch_head": True},
    },
    "schedule": {
        "momentum constant": {"teacher.momentum_end": 0.98},
        "no warm-up": {"optim.warmup_steps": 0},
        "last layer frozen for a tenth": {"optim.freeze_last_layer_steps": 20},
    },
    "curriculum": {"24 px for the first half": {"search.first_half_px": 24}},
    "LayerScale": {"1e-5": {"model.init_values": 1.0e-5}},
    "drop path": {"0.1": {"model.drop_path_rate": 0.1}},
}
"""Factor, then the name of a setting, then what differs from `BASE`. The order is that of expected worth."""
