"""The keys of transformers' TrainingArguments: their defaults, and why some are not carried.

The list is that of transformers 5; what only 4 had stands under `OLD`. A test holds it against the installed version.
"""

from __future__ import annotations

from typing import Any

#: Carried: key -> default. They are read by name in `api`, `rates` and `rules`.
CARRIED: dict[str, Any] = {
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "label_smoothing_factor": 0.0,
    "bf16": False,
    "fp16": False,
    "train_sampling_strategy": "random",
    "dataloader_drop_last": False,
    "seed": 42,
    "data_seed": None,
    "eval_strategy": "no",
    "eval_steps": None,
    "logging_steps": 500,
    "save_strategy": "steps",
    "save_steps": 500,
    "metric_for_best_model": None,
}

#: Why not -> keys with their defaults.
_LEFT: dict[str, dict[str, Any]] = {
    "has no place here: noise on embeddings is part of no component": {"neftune_noise_alpha": None},
    "here micro_batch='auto' halves the forward and leaves the batch as it is": {"auto_find_batch_size": False},
    "belongs to the model: the same numbers for less memory or time; switch it on where the workload builds it": {
        "activation_checkpointing": False,
        "activation_checkpointing_kwargs": None,
        "gradient_checkpointing": False,
        "gradient_checkpointing_kwargs": None,
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "use_liger_kernel": False,
        "liger_kernel_config": None,
        "use_cache": False,
    },
    "is a setting of torch; set it where the workload is built": {
        "tf32": None,
        "full_determinism": False,
        "torch_empty_cache_steps": None,
    },
    "is said by the workload: device=": {"use_cpu": False},
    "belongs to an optimizer that is not carried": {"optim_target_modules": None},
    "every process here holds a whole copy: started by torchrun, without a key for it": {
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": None,
        "ddp_bucket_cap_mb": None,
        "ddp_broadcast_buffers": None,
        "ddp_static_graph": None,
        "ddp_backend": None,
        "ddp_timeout": 1800,
        "local_rank": -1,
    },
    "has no place here: sharded models are not trained yet": {
        "fsdp": None,
        "fsdp_config": None,
        "deepspeed": None,
        "parallelism_config": None,
    },
    "belongs to the data or to how they are read, which the workload brings": {
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": True,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
        "dataloader_multiprocessing_context": None,
        "dataloader_in_order": True,
        "remove_unused_columns": True,
        "label_names": None,
        "length_column_name": "length",
        "accelerator_config": None,
        "ignore_data_skip": False,
    },
    "belongs to validation, which the workload describes (eval_batch=, metrics=)": {
        "per_device_eval_batch_size": 8,
        "prediction_loss_only": False,
        "eval_do_concat_batches": True,
        "eval_use_gather_object": False,
        "eval_accumulation_steps": None,
        "include_for_metrics": [],
        "batch_eval_metrics": False,
        "bf16_full_eval": False,
        "fp16_full_eval": False,
        "sortish_sampler": False,
        "predict_with_generate": False,
        "generation_max_length": None,
        "generation_num_beams": None,
        "generation_config": None,
    },
    "has no place here: validation comes at its cadence and at the end of every phase": {
        "eval_delay": 0,
        "eval_on_start": False,
    },
    "has no place here: a verdict reads the weights that a run ends with, or their average": {
        "load_best_model_at_end": False,
        "greater_is_better": None,
    },
    "has no place here: a checkpoint holds all that a resumed run needs, and the newest ones are kept": {
        "save_only_model": False,
        "save_on_each_node": False,
        "save_total_limit": None,
        "enable_jit_checkpoint": False,
        "restore_callback_states_from_checkpoint": False,
    },
    "every step has a record here": {
        "logging_strategy": "steps",
        "logging_first_step": False,
        "log_on_each_node": True,
        "logging_nan_inf_filter": True,
        "include_num_input_tokens_seen": "no",
    },
    "is an option of the command: regimes run FILE --track NAME --out DIR": {
        "report_to": [],
        "output_dir": None,
        "run_name": None,
        "project": "huggingface",
        "trackio_space_id": None,
        "trackio_bucket_id": None,
        "trackio_static_space_id": None,
    },
    "is about messages and measuring, not about training": {
        "log_level": "passive",
        "log_level_replica": "warning",
        "disable_tqdm": None,
        "debug": [],
        "skip_memory_metrics": True,
    },
    "publishes, which regimes does not": {
        "push_to_hub": False,
        "hub_token": None,
        "hub_private_repo": None,
        "hub_model_id": None,
        "hub_strategy": "every_save",
        "hub_always_push": False,
        "hub_revision": None,
    },
    "says what a script is to do, not how it trains": {
        "do_train": False,
        "do_eval": False,
        "do_predict": False,
        "resume_from_checkpoint": None,
    },
}

#: What transformers 4 had besides; the first is carried.
OLD: dict[str, Any] = {
    "warmup_ratio": 0.0,
    "overwrite_output_dir": False,
    "save_safetensors": True,
    "logging_dir": None,
    "use_mps_device": False,
    "jit_mode_eval": False,
    "use_ipex": False,
    "fp16_opt_level": "O1",
    "half_precision_backend": "auto",
    "fp16_backend": "auto",
    "tpu_num_cores": None,
    "tpu_metrics_debug": False,
    "past_index": -1,
    "fsdp_min_num_params": 0,
    "fsdp_transformer_layer_cls_to_wrap": None,
    "use_legacy_prediction_loop": False,
    "include_inputs_for_metrics": False,
    "include_tokens_per_second": False,
    "mp_parameters": "",
    "torchdynamo": None,
    "ray_scope": "last",
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": None,
    "per_gpu_eval_batch_size": None,
    "dispatch_batches": None,
    "split_batches": None,
}

#: Keys of transformers 4 under the name that 5 has for them: old -> (new, value of the new one where the old is true).
RENAMED: dict[str, tuple[str, Any]] = {
    "evaluation_strategy": ("eval_strategy", None),
    "per_gpu_train_batch_size": ("per_device_train_batch_size", None),
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "adafactor": ("optim", "adafactor"),
    "no_cuda": ("use_cpu", True),
}

#: Key -> why it is not carried.
LEFT = {key: why for why, keys in _LEFT.items() for key in keys}
LEFT |= dict.fromkeys(list(OLD)[1:], "is a key of transformers 4 that does not say how to train")
LEFT |= dict.fromkeys(("logging_dir", "overwrite_output_dir"), LEFT["report_to"])

#: Key -> default, of all that are known.
DEFAULTS: dict[str, Any] = CARRIED | {key: value for keys in _LEFT.values() for key, value in keys.items()} | OLD

#: Values that ask for nothing beyond the default, as files of different versions write them.
_AS_GOOD: dict[str, tuple[Any, ...]] = {
    "average_tokens_across_devices": (False,),  # 4 asked for it; on one device it is nothing
    "accelerator_config": (
        {
            "split_batches": False,
            "dispatch_batches": None,
            "even_batches": True,
            "use_seedable_sampler": True,
            "non_blocking": False,
            "gradient_accumulation_kwargs": None,
        },
    ),
    "dataloader_pin_memory": (False,),  # what use_cpu makes of it
    "debug": ("", None),
    "disable_tqdm": (False, True),  # filled in by the logging level
    "do_eval": (True,),  # filled in by eval_strategy
    "do_train": (True,),  # what every script sets
    "fsdp": ([], ""),
    "fsdp_config": ({}, {"min_num_params": 0, "xla": False, "xla_fsdp_grad_ckpt": False, "xla_fsdp_v2": False}),
    "hub_token": ("<HUB_TOKEN>",),
    "include_num_input_tokens_seen": (False,),
    "local_rank": (0,),
    "lr_scheduler_kwargs": ({},),
    "push_to_hub_token": ("<PUSH_TO_HUB_TOKEN>",),
    "report_to": (None, "none", ["none"]),
    "trackio_space_id": ("trackio",),
}


def asks_for_nothing(key: str, value: Any) -> bool:
    """Whether a value is the default of its key, or as good.

    Examples
    --------
    >>> asks_for_nothing("report_to", []), asks_for_nothing("report_to", ["wandb"])
    (True, False)
    """
    return any(type(value) is type(known) and value == known for known in (DEFAULTS[key], *_AS_GOOD.get(key, ()))) or (
        isinstance(value, int | float) and isinstance(DEFAULTS[key], int | float) and value == DEFAULTS[key]
    )
