"""What a bundle file may say, and how its mistakes are reported."""

from pathlib import Path

import pytest

from fathom_export.errors import SpecError
from fathom_export.spec import EmbedSpec, GenerateSpec, read_bundle
from fathom_export.spec.quantisation import Quantisation

ROOT = Path(__file__).parents[2]
MODEL = '[[models]]\nname = "chat"\nsource = "here"\ntask = "generate"\n'


def read(folder: Path, text: str) -> object:
    """Read a bundle of this text."""
    (folder / "bundle.toml").write_text(text)
    return read_bundle(folder / "bundle.toml")


def test_a_bundle_gives_typed_models_with_paths_relative_to_its_file(tmp_path: Path) -> None:
    """Values come as written, the rest by default, and the repository lies under the file's folder."""
    text = (
        'repository = "out"\n'
        + MODEL
        + 'precision = "int8"\nlimits = { max_batch = 4, timeout_s = 1.5 }\n'
        + '[[models]]\nname = "e"\nsource = "pypi:x"\ntask = "embed"\n'
    )
    (tmp_path / "bundle.toml").write_text(text)
    bundle = read_bundle(tmp_path / "bundle.toml")
    assert bundle.repository == tmp_path / "out"
    assert bundle.models == (
        GenerateSpec("chat", "here", "int8", "cpu", {"max_batch": 4, "timeout_s": 1.5}),
        EmbedSpec("e", "pypi:x"),
    )


def test_a_profile_chooses_the_precision(tmp_path: Path) -> None:
    """Latency is int4 in blocks of 128, throughput int8; what the profile leaves open may be said beside it."""
    text = MODEL + 'profile = "latency"\nquantisation = { int4_method = "hqq" }\n'
    text += MODEL.replace('"chat"', '"many"') + 'profile = "throughput"\nlimits = { kv_cache_dtype = "float16" }\n'
    (tmp_path / "bundle.toml").write_text(text)
    latency, throughput = read_bundle(tmp_path / "bundle.toml").models
    assert isinstance(latency, GenerateSpec)
    assert isinstance(throughput, GenerateSpec)
    assert (latency.precision, latency.quantisation) == ("int4", Quantisation(block_size=128, int4_method="hqq"))
    assert (throughput.precision, throughput.quantisation) == ("int8", Quantisation())
    assert throughput.engine_limits(64).kv_cache_dtype == "float16"
    with pytest.raises(SpecError, match="profile is 'latency', which means precision int4, not fp32"):
        GenerateSpec("chat", "here", profile="latency")


def test_the_demos_bundle_is_valid_and_its_sources_are_there() -> None:
    """The bundle at the root names the two LLMs of the examples and MiniLM."""
    bundle = read_bundle(ROOT / "bundle.toml")
    assert [spec.name for spec in bundle.models] == ["chat", "chat_small", "minilm"]
    assert bundle.repository == ROOT / "model_repository"
    for spec in bundle.models[:2]:
        assert (ROOT / spec.source).is_dir()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("models = 3", ["models is missing or empty", "[[models]]"]),
        ("repository = 3\n" + MODEL, ["repository is 3", "text"]),
        (MODEL + 'presicion = "int8"\n', ["models[0].presicion", "did you mean 'precision'"]),
        (MODEL + 'precision = "int7"\n', ["models[0].precision is 'int7'", "int8"]),
        (MODEL + 'dialect = "rocm"\n', ["models[0].dialect is 'rocm'", "cpu, portable, cuda"]),
        (MODEL.replace("generate", "embed") + 'dialect = "cpu"\n', ["models[0].dialect is not a known key"]),
        (MODEL + "limits = { max_bach = 3 }\n", ["models[0].limits.max_bach", "did you mean 'max_batch'"]),
        (MODEL + 'profile = "fast"\n', ["models[0].profile is 'fast'", "latency, throughput"]),
        (
            MODEL + 'profile = "latency"\nprecision = "int8"\n',
            ["models[0].precision is 'int8'", "means int4", "leave one"],
        ),
        (
            MODEL + 'profile = "throughput"\ndialect = "portable"\n',
            ["models[0].", "profile is 'throughput'", "profiles are of the cpu dialect"],
        ),
        (MODEL + 'limits = { kv_cache_dtype = "int4" }\n', ["models[0].limits.kv_cache_dtype is 'int4'", "int8"]),
        (MODEL + "limits = { kv_cache_tokens = 8 }\n", ["limits.kv_cache_tokens is 8", "max_context"]),
        (MODEL + 'limits = { max_batch = "3" }\n', ["models[0].limits.max_batch is '3'", "whole number"]),
        (MODEL + "limits = { max_batch = true }\n", ["models[0].limits.max_batch is True", "whole number"]),
        (MODEL + "limits = { max_batch = 0 }\n", ["models[0].limits.max_batch is 0", "at least 1"]),
        (MODEL + "limits = { timeout_s = inf }\n", ["models[0].limits.timeout_s is inf", "number"]),
        (MODEL + "limits = 3\n", ["models[0].limits is 3", "table"]),
        (MODEL.replace('"chat"', '"../chat"'), ["models[0].name is '../chat'", "letters"]),
        (MODEL.replace('name = "chat"\n', ""), ["models[0].name is missing", 'name = "..."']),
        (MODEL.replace('task = "generate"\n', ""), ["models[0].task is missing", "generate, embed"]),
        (MODEL + MODEL, ["'chat'", "rename"]),
        (MODEL + MODEL.replace('"chat"', '"chat_tokenizer"'), ["'chat_tokenizer'", "rename"]),
        ("modles = 3", ["modles is not a known key", "'models'"]),
        ("[[models", ["is not TOML"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    """Every mistake in a bundle is refused with its file, its key and what would do."""
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    for part in [str(tmp_path / "bundle.toml"), *parts]:
        assert part in str(caught.value)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    """A bundle that is not there is an error that says what to give."""
    with pytest.raises(SpecError, match=r"none\.toml does not exist; name a bundle"):
        read_bundle(tmp_path / "none.toml")
