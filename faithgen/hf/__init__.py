"""Everything faithgen needs from transformers that transformers does not promise.

Private names, signs that changed between versions and shapes of internals live in this folder and nowhere else, so that a
new transformers release breaks one room and one test (`tests/test_hf.py`).
"""

from faithgen.hf.collector import collector_at_rest

with collector_at_rest():  # torch and transformers are imported here first
    from faithgen.hf.attention import (
        AttentionFunction,
        accepts_4d_mask,
        attached,
        attention_through,
        biased_mask,
        intervened,
        ready_mask,
        takes_any_mask,
        visible,
    )
    from faithgen.hf.caches import (
        cache_bytes,
        check_cache_supported,
        copy_into_static,
        copy_static,
        crop_cache,
        drop_first,
        join_caches,
        new_cache,
        set_static_column,
        shift_static,
        static_cache,
        static_column,
    )
    from faithgen.hf.compiling import check_compiler, compiles
    from faithgen.hf.loading import (
        cpu_bf16_features,
        cpu_has_bf16,
        end_tokens,
        quiet,
    )
    from faithgen.hf.shape import (
        HeadShape,
        attention_modules,
        context_window,
        device_of,
        head_shape,
        output_projection,
        projection_in_features,
        text_config,
        weights_mark,
        zero_projection_inputs,
    )

__all__ = [
    "AttentionFunction",
    "HeadShape",
    "accepts_4d_mask",
    "attached",
    "attention_modules",
    "attention_through",
    "biased_mask",
    "cache_bytes",
    "check_cache_supported",
    "check_compiler",
    "collector_at_rest",
    "compiles",
    "context_window",
    "copy_into_static",
    "copy_static",
    "cpu_bf16_features",
    "cpu_has_bf16",
    "crop_cache",
    "device_of",
    "drop_first",
    "end_tokens",
    "head_shape",
    "intervened",
    "join_caches",
    "new_cache",
    "output_projection",
    "projection_in_features",
    "quiet",
    "ready_mask",
    "set_static_column",
    "shift_static",
    "static_cache",
    "static_column",
    "takes_any_mask",
    "text_config",
    "visible",
    "weights_mark",
    "zero_projection_inputs",
]
