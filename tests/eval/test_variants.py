import pytest

from kvcrush_eval import EvalError, server, variants
from kvcrush_eval.stubs import pb


def proto(text: str) -> pb.KvCompression:
    return server.to_proto(variants.parse(text))


def test_short_names():
    assert proto("full") == pb.KvCompression(policy=pb.BASE_POLICY_OFF, kv_dtype=pb.KV_DTYPE_F16)
    assert proto("full:int8") == pb.KvCompression(policy=pb.BASE_POLICY_OFF, kv_dtype=pb.KV_DTYPE_INT8)
    assert proto("h2o:0.25") == pb.KvCompression(policy=pb.BASE_POLICY_H2O, preset=pb.PRESET_PAPER, representative_share=0,
                                                 budget_fraction=0.25, kv_dtype=pb.KV_DTYPE_F16)
    assert proto("snapkv+crush:512:int4") == pb.KvCompression(
        policy=pb.BASE_POLICY_SNAPKV, preset=pb.PRESET_PAPER, representative_share=0.25, budget_tokens=512, kv_dtype=pb.KV_DTYPE_INT4)
    assert proto("default:0.5") == pb.KvCompression(preset=pb.PRESET_DEFAULT, budget_fraction=0.5, kv_dtype=pb.KV_DTYPE_F16)
    assert proto("target:8") == pb.KvCompression(target_compression=8)
    assert proto("server") == pb.KvCompression()


def test_share_zero_is_sent():
    assert proto("tova:0.5").HasField("representative_share")


def test_general_names():
    variant = variants.parse("mine=policy=tova,budget=0.5,share=0.1,value_norm=false,anchor=alternating,window_tokens=16,when=during_prefill")
    assert (variant.name, variant.method, variant.budget) == ("mine", "mine", 0.5)
    assert server.to_proto(variant) == pb.KvCompression(
        policy=pb.BASE_POLICY_TOVA, budget_fraction=0.5, representative_share=0.1, value_norm=False, anchor=pb.ANCHOR_ALTERNATING,
        window_tokens=16, when=pb.PRUNE_WHEN_DURING_PREFILL)


def test_selection_fields_have_no_short_names():
    assert proto("x=default:0.25,observed_queries=8,pool_kernel_tokens=21,pool_shape=gaussian,layer_weight=0.5") == pb.KvCompression(
        preset=pb.PRESET_DEFAULT, budget_fraction=0.25, kv_dtype=pb.KV_DTYPE_F16, observed_queries=8, pool_kernel_tokens=21,
        pool_shape=pb.POOL_SHAPE_GAUSSIAN, layer_weight=0.5)
    assert proto("x=layer_weight=0").HasField("layer_weight")


def test_a_general_name_may_start_from_a_short_one():
    assert proto("x=default:0.25:int4,budget=100") == pb.KvCompression(preset=pb.PRESET_DEFAULT, budget_tokens=100, kv_dtype=pb.KV_DTYPE_INT4)


@pytest.mark.parametrize("text", ["snapkv", "snapkv:2.0", "snapkv:0", "snapkv:0.25:int3", "foo:0.25", "snapkv+other:0.25", "target:3",
                                  "full:0.25", "", "a b", "x=policy", "x=budget=no", "paper+crush:0.5", "server:1"])
def test_bad_texts_are_refused(text):
    with pytest.raises(EvalError):
        variants.parse(text)


@pytest.mark.parametrize(("text", "word"), [("x=colour=red", "colour"), ("x=policy=lru", "streaming"), ("x=window_tokens=a", "window_tokens")])
def test_bad_fields_are_named(text, word):
    with pytest.raises(EvalError, match=word):
        proto(text)


def test_frontier_is_complete():
    names = {v.name for v in variants.resolve(["frontier"])}
    for budget in ("0.75", "0.5", "0.25", "0.125"):
        for suffix in ("", ":int8", ":int4"):
            for policy in variants.POLICIES:
                assert f"{policy}:{budget}{suffix}" in names
                assert (f"{policy}+crush:{budget}{suffix}" in names) == (policy != "snapkv")
            assert {f"default:{budget}{suffix}", f"paper:{budget}{suffix}"} <= names
    assert {"full", "full:int8", "full:int4", "target:2", "target:4", "target:8", "target:16"} <= names
    assert len(names) == 7 + 4 * 3 * (6 + 5 + 2)


@pytest.mark.parametrize("name", variants.SETS)
def test_sets_hold_the_full_cache_and_are_valid(name):
    chosen = variants.resolve([name])
    assert chosen[0].name == "full"
    assert len(chosen) == len(variants.SETS[name])
    for variant in chosen:
        server.to_proto(variant)


def test_toml_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('[variants]\nmine = "default:0.25,seed=7"\n')
    assert [v.name for v in variants.resolve([str(path), "full", "full"])] == ["mine", "full"]
    path.write_text("[other]\n")
    with pytest.raises(EvalError, match="variants"):
        variants.resolve([str(path)])


def test_one_name_with_two_meanings_is_refused():
    with pytest.raises(EvalError, match="twice"):
        variants.resolve(["x=budget=0.5", "x=budget=0.25"])


@pytest.mark.parametrize("text", ["full:int4", "snapkv+crush:0.25:int8", "target:4", "mine=policy=tova,budget=0.5"])
def test_restore(text):
    variant = variants.parse(text)
    assert variants.restore(variant.name, variant.settings) == variant
