"""config.json as transformers 4 wrote it, and most published models have it: transformers 5 writes `rope_parameters`."""


def old_config(config):
    """The same model's config.json in the older form. AutoConfig reads both alike, which test_families.py checks."""
    if config["model_type"] == "gemma3":
        return config | {"text_config": old_config(config["text_config"])}
    old = {name: value for name, value in config.items() if name not in ("rope_parameters", "layer_types", "dtype")}
    old["torch_dtype"] = "float32"
    rope = config["rope_parameters"]
    if config["model_type"] == "gemma3_text":
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        old["sliding_window_pattern"] = old.pop("_sliding_window_pattern")
        rope = rope["full_attention"]
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    old["rope_theta"] = rope["rope_theta"]
    old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if config["model_type"] == "phi3" and old["rope_scaling"]:
        # Phi has the length at the top, and says `type`.
        del scaling["original_max_position_embeddings"]
        scaling["type"] = scaling.pop("rope_type")
    return old
