"""RepE's pipelines agree with Transformers' own states, scikit-learn's components and generation changed by hand."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import HIDDEN, LAYERS, ROOT, byte_tokenizer
from sklearn.decomposition import PCA
from test_steering import by_hand, changes, hooks, vectors
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import repe
from repe import repe_pipeline_registry
from repe.compat.pipelines import RepControlPipeline, RepReadingPipeline
from repe.compat.rep_reading import RepEReader

FAMILIES = ("llama", "qwen2", "bloom", "gpt_neox")
PAIRS = [
    ("a good dog", "a bad dog"),
    ("they help her", "they hurt her very much"),
    ("no", "yes, it is"),
    ("bread and water", "water"),
    ("old house", "a new house by the sea"),
    ("he gives", "he takes"),
    ("from me to you", "mine"),
    ("with care", "without"),
]
TEXTS = [text for pair in PAIRS for text in pair]
LABELS = [[1, 0], [0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]]
LAYER_IDS = [-1, -2, 0, 1]
NEW = 5
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}

Lms = dict[str, nn.Module]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    repe_pipeline_registry()


@pytest.fixture(scope="module")
def lms(model_folders: dict[str, Path]) -> Lms:
    return {family: AutoModelForCausalLM.from_pretrained(model_folders[family]).eval() for family in FAMILIES}


def reading(model: nn.Module, side: str = "left") -> RepReadingPipeline:
    return pipeline("rep-reading", model=model, tokenizer=byte_tokenizer(padding_side=side), device=model.device)


def control(model: nn.Module, layers: int | list[int], **options: object) -> RepControlPipeline:
    tokenizer = byte_tokenizer()
    return pipeline("rep-control", model=model, tokenizer=tokenizer, layers=layers, device=model.device, **options)


@torch.no_grad()
def own_states(model: nn.Module, texts: list[str], token: int = -1) -> dict[int, np.ndarray]:
    """What Transformers gives for each text alone, (texts, hidden) by layer."""
    tokenizer, found = byte_tokenizer(), {layer: [] for layer in LAYER_IDS}
    for text in texts:
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for layer in LAYER_IDS:
            found[layer].append(states[layer][0, token].float().numpy())
    return {layer: np.stack(rows) for layer, rows in found.items()}


def stacked(found: list[dict[int, np.ndarray]], layer: int) -> np.ndarray:
    return np.stack([np.squeeze(each[layer]) for each in found])


def ids_of(text: str) -> list[int]:
    return byte_tokenizer()(text)["input_ids"]


# The names that scripts import


def test_the_package_answers_at_once_and_gives_repes_names_when_asked() -> None:
    code = "import sys, repe; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert repe.RepReadingPipeline is RepReadingPipeline
    assert repe.WrappedReadingVecModel.__name__ == "WrappedReadingVecModel"
    with pytest.raises(AttributeError, match="repe_pipelines"):
        _ = repe.repe_pipelines


def test_registering_twice_does_nothing_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"rep-reading", "rep-control"} <= set(PIPELINE_REGISTRY.get_supported_tasks())
    monkeypatch.setattr(PIPELINE_REGISTRY, "register_pipeline", pytest.fail)
    repe_pipeline_registry()


def test_models_are_loaded_from_a_folder_too(model_folders: dict[str, Path], lms: Lms) -> None:
    pipe = pipeline("rep-reading", model=str(model_folders["llama"]), device="cpu")
    assert type(pipe.model).__name__ == "LlamaModel"
    found = pipe(TEXTS[:3], hidden_layers=[-2], batch_size=3)
    np.testing.assert_allclose(stacked(found, -2), own_states(lms["llama"], TEXTS[:3])[-2], atol=1e-5)


# Reading


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_each_text_alone(family: str, side: str, lms: Lms) -> None:
    expected = own_states(lms[family], TEXTS)
    for batch_size in (1, 3, 16):
        found = reading(lms[family], side)(TEXTS, hidden_layers=LAYER_IDS, batch_size=batch_size)
        assert len(found) == len(TEXTS)
        assert {(rows.shape, rows.dtype.name) for each in found for rows in each.values()} == {((1, HIDDEN), "float32")}
        for layer in LAYER_IDS:
            np.testing.assert_allclose(stacked(found, layer), expected[layer], atol=2e-5)


def test_a_trunk_gives_what_the_model_with_its_head_gives(model_folders: dict[str, Path], lms: Lms) -> None:
    trunk = AutoModel.from_pretrained(model_folders["bloom"]).eval()
    for found, expected in zip(reading(trunk)(TEXTS), reading(lms["bloom"])(TEXTS), strict=True):
        np.testing.assert_array_equal(found[-1], expected[-1])


def test_texts_share_passes_as_the_caller_says(lms: Lms) -> None:
    rows = []
    handle = lms["llama"].model.register_forward_pre_hook(
        lambda _m, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    pipe = reading(lms["llama"])
    pipe.get_directions(TEXTS, batch_size=5)
    pipe(TEXTS[:3])
    handle.remove()
    assert rows == [5, 5, 5, 1, 1, 1, 1]


def test_no_vocabulary_logits_are_computed(lms: Lms) -> None:
    calls: list[object] = []
    handle = lms["llama"].lm_head.register_forward_hook(lambda *_: calls.append(None))
    try:
        reading(lms["llama"])(TEXTS[:2])
        assert calls == []
        lms["llama"](torch.tensor([[5]]))
        assert calls == [None]
    finally:
        handle.remove()


@pytest.mark.parametrize("token", [0, 3, -2, -3])
def test_tokens_are_counted_on_the_padded_sequence(token: int, lms: Lms) -> None:
    lm, texts = lms["qwen2"], ["he takes it", "yes, it is", "bread"]
    batch = byte_tokenizer()(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = lm(**batch, output_hidden_states=True).hidden_states[1][:, token].numpy()
    found = reading(lm)(texts, rep_token=token, hidden_layers=1, batch_size=3)
    np.testing.assert_allclose(stacked(found, 1), expected, atol=1e-5)
    # Padding on the right leaves every text its own end.
    found = reading(lm, "right")(texts, rep_token=token, hidden_layers=1, batch_size=3)
    np.testing.assert_allclose(stacked(found, 1), own_states(lm, texts, token)[1], atol=1e-5)


def test_an_encoder_is_read(model_folders: dict[str, Path]) -> None:
    bert = AutoModel.from_pretrained(model_folders["bert"]).eval()
    for token in (0, -1):
        found = reading(bert, "right")(TEXTS, rep_token=token, hidden_layers=LAYER_IDS, batch_size=5)
        for layer, expected in own_states(bert, TEXTS, token).items():
            np.testing.assert_allclose(stacked(found, layer), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_half_precision_come_in_single(dtype: torch.dtype, model_folders: dict[str, Path]) -> None:
    lm = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=dtype).eval()
    found = reading(lm)(TEXTS[:4], hidden_layers=LAYER_IDS)
    for layer, expected in own_states(lm, TEXTS[:4]).items():
        assert found[0][layer].dtype == np.float32
        np.testing.assert_array_equal(stacked(found, layer), expected)
    reader = reading(lm).get_directions(TEXTS, hidden_layers=LAYER_IDS, train_labels=LABELS)
    assert all(direction.dtype == np.float32 for direction in reader.directions.values())


# Directions


def differences(states: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        states = np.array([states[row] - states[row + 1] for row in range(0, len(states), 2)])
    return states


@pytest.mark.parametrize("n_difference", [0, 1, 2])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_components_and_means_are_scikit_learns(family: str, components: int, n_difference: int, lms: Lms) -> None:
    reader = reading(lms[family]).get_directions(
        TEXTS,
        hidden_layers=LAYER_IDS,
        n_difference=n_difference,
        batch_size=5,
        direction_finder_kwargs={"n_components": components},
    )
    assert reader.direction_signs is None
    assert list(reader.directions) == LAYER_IDS
    for layer, states in own_states(lms[family], TEXTS).items():
        expected = PCA(n_components=components).fit(differences(states, n_difference))
        np.testing.assert_allclose(reader.H_train_means[layer], expected.mean_[None], atol=2e-4)
        assert reader.directions[layer].dtype == np.float32
        np.testing.assert_allclose(reader.directions[layer], expected.components_, atol=2e-3)


def by_hand_sign(projections: np.ndarray, labels: list[list[int]]) -> int:
    """RepE's rule, a group at a time."""
    larger, smaller, start = 0, 0, 0
    for label in labels:
        group = projections[start : start + len(label)]
        larger += group[label.index(1)] == max(group)
        smaller += group[label.index(1)] == min(group)
        start += len(label)
    return -1 if smaller > larger else 1


def test_signs_point_to_the_positive_texts(lms: Lms) -> None:
    states = own_states(lms["llama"], TEXTS)
    pipe = reading(lms["llama"])
    signs = []
    for labels in (LABELS, [label[::-1] for label in LABELS]):
        reader = pipe.get_directions(
            TEXTS, hidden_layers=LAYER_IDS, train_labels=labels, direction_finder_kwargs={"n_components": 3}
        )
        for layer in LAYER_IDS:
            expected = [by_hand_sign(states[layer] @ each, labels) for each in reader.directions[layer]]
            assert reader.direction_signs[layer].tolist() == expected
            signs.extend(expected)
    assert {-1, 1} == set(signs)


@pytest.mark.parametrize(
    ("labels", "sign"),
    [
        ([[1, 0], [0, 1, 0], [1, 0]], 1),  # the smallest of its group, the largest, the largest
        ([[1, 0], [1, 0, 0], [1, 0]], -1),
        ([[0, 1], [0, 1, 0], [0, 1]], 1),
        ([[1, 0], [0, 0, 1], [0, 1]], -1),  # the middle one counts for neither
        ([[0, 1], [0, 0, 1], [0, 1]], 1),  # as often the one as the other
    ],
)
def test_groups_have_any_length_and_a_tie_is_positive(labels: list[list[int]], sign: int) -> None:
    line = np.float32([[0], [1], [2], [5], [4], [9], [8]]) * np.float32([[0.6, 0.8]])
    reader = RepEReader().fit({-1: line}, 0, labels)
    np.testing.assert_allclose(reader.directions[-1], [[0.6, 0.8]], atol=1e-6)
    assert reader.direction_signs[-1] == [sign]


@pytest.mark.parametrize("label", [[1, 0], [0, 1]])
def test_pairs_of_equal_texts_leave_the_sign_positive(label: list[int]) -> None:
    # A matrix product gives equal rows different numbers where it works on so many at a time; here a text alone goes
    # before the pairs, which counts for either sign.
    generator = np.random.default_rng(0)
    for layer in range(20):
        pairs = np.repeat(generator.normal(size=(6, 4096)).astype(np.float32), 2, axis=0)[1:]
        reader = RepEReader("random").fit({layer: pairs}, 0, [[1], *[label] * 5])
        assert reader.direction_signs[layer] == 1


def test_class_means_by_the_label_of_each_pair(lms: Lms) -> None:
    labels = [label.index(1) for label in LABELS]
    reader = reading(lms["bloom"]).get_directions(
        TEXTS, hidden_layers=LAYER_IDS, train_labels=labels, direction_method="cluster_mean"
    )
    for layer, rows in own_states(lms["bloom"], TEXTS).items():
        difference = rows[::2] - rows[1::2]
        expected = difference[np.array(labels) == 1].mean(axis=0) - difference[np.array(labels) == 0].mean(axis=0)
        np.testing.assert_allclose(reader.directions[layer], expected[None], atol=1e-4)
        assert reader.direction_signs[layer] == by_hand_sign(rows @ expected, LABELS)
    # The second text is positive where the label is 1, and first minus second leads away from it.
    assert reader.direction_signs[-1] == -1
    assert not reader.H_train_means


def test_random_directions_are_numpys(lms: Lms) -> None:
    np.random.seed(3)
    reader = reading(lms["llama"]).get_directions(
        TEXTS, hidden_layers=[-1, -2], train_labels=LABELS, direction_method="random"
    )
    np.random.seed(3)
    states = own_states(lms["llama"], TEXTS)
    for layer in (-1, -2):
        drawn = np.random.randn(HIDDEN)
        np.testing.assert_array_equal(reader.directions[layer], drawn.astype(np.float32)[None])
        assert reader.direction_signs[layer] == by_hand_sign(states[layer] @ drawn, LABELS)


def test_projections_are_centred_and_onto_unit_vectors(lms: Lms) -> None:
    pipe, lm = reading(lms["gpt_neox"]), lms["gpt_neox"]
    readers = {
        "pca": pipe.get_directions(TEXTS, hidden_layers=LAYER_IDS, direction_finder_kwargs={"n_components": 2}),
        "cluster_mean": pipe.get_directions(
            TEXTS, hidden_layers=LAYER_IDS, train_labels=LABELS, direction_method="cluster_mean"
        ),
    }
    for method, reader in readers.items():
        component = 1 if method == "pca" else 0
        for batch_size in (1, 4):
            found = pipe(
                TEXTS[:6], hidden_layers=[-2, 1], rep_reader=reader, component_index=component, batch_size=batch_size
            )
            assert [list(each) for each in found] == [[-2, 1]] * 6
            assert np.shape(found[0][-2]) == ((1,) if batch_size == 1 else ())
            for layer in (-2, 1):
                rows = own_states(lm, TEXTS[:6])[layer]
                direction = reader.directions[layer][component]
                centred = rows - reader.H_train_means[layer] if method == "pca" else rows
                expected = centred @ direction / np.linalg.norm(direction)
                np.testing.assert_allclose(stacked(found, layer), expected, atol=1e-4)


def test_pairs_may_come_as_pairs_and_texts_may_be_cut(lms: Lms) -> None:
    pipe = reading(lms["llama"])
    flat = pipe.get_directions(TEXTS, hidden_layers=[-2], train_labels=LABELS, truncation=True, max_length=3)
    nested = pipe.get_directions(PAIRS, hidden_layers=-2, train_labels=LABELS, truncation=True, max_length=3)
    np.testing.assert_array_equal(flat.directions[-2], nested.directions[-2])
    cut = pipe.get_directions([byte_tokenizer().decode(ids_of(text)[1:3]) for text in TEXTS], hidden_layers=-2)
    np.testing.assert_allclose(flat.directions[-2], cut.directions[-2], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layers": [7]}, "7 is not in the range -4 to 3"),
        ({"rep_token": 40}, "rep_token 40 is out of range"),
        ({"train_inputs": TEXTS[:3]}, "a multiple of 2 texts"),
        ({"train_inputs": TEXTS[0]}, "a multiple of 2 texts"),
        ({"n_difference": 5}, "a multiple of 32 texts"),
        ({"train_labels": LABELS[:2]}, "for 4 texts, but there are 16"),
        ({"train_labels": [*LABELS[:7], [0, 0]]}, r"train_labels contain \[0, 0\]"),
        ({"train_labels": [*LABELS[:7], 2]}, "train_labels contain 2"),
        ({"direction_method": "mean"}, "'mean' must be one of"),
        ({"direction_finder_kwargs": {"n_components": 9}}, "do not vary in 9 directions"),
        ({"direction_method": "cluster_mean"}, "train_labels"),
        ({"direction_method": "cluster_mean", "train_labels": LABELS, "n_difference": 0}, "n_difference=1"),
        ({"direction_method": "cluster_mean", "train_labels": [0] * 8}, "pairs of both orders"),
        ({"train_inputs": ["same", "same"] * 2}, "do not vary"),
    ],
)
def test_what_leads_to_no_directions_is_refused(options: dict[str, object], message: str, lms: Lms) -> None:
    with pytest.raises(ValueError, match=message):
        reading(lms["llama"], "right").get_directions(**{"train_inputs": TEXTS, "hidden_layers": [-1], **options})


def test_what_cannot_be_read_is_refused(lms: Lms) -> None:
    pipe = reading(lms["llama"])
    reader = pipe.get_directions(TEXTS, hidden_layers=[-1])
    with pytest.raises(KeyError, match="-2"):
        pipe(TEXTS, hidden_layers=[-1, -2], rep_reader=reader)
    with pytest.raises(IndexError, match="index 1 is out of bounds"):
        pipe(TEXTS, rep_reader=reader, component_index=1)
    for texts, options in (([list(PAIRS[0])], {"padding": True}), (["dog", ""], {"add_special_tokens": False})):
        with pytest.raises(ValueError, match="is not a text, or the tokenizer produced no tokens"):
            pipe(texts, batch_size=2, **options)
    with pytest.raises(TypeError, match="whiten"):
        pipe.get_directions(TEXTS, direction_finder_kwargs={"whiten": True})


# Control

PROMPTS = ["a good dog", "hm", "they all"]
# Enough to change replies, too little to rule them: the tiny Bloom says its last token again and again.
LENGTHS = {"llama": 2.0, "qwen2": 2.0, "bloom": 30.0, "gpt_neox": 2.0}


def replies(found: list[list[dict[str, list[int]]]]) -> list[list[int]]:
    return [each["generated_token_ids"][-NEW:] for (each,) in found]


def generated(pipe: RepControlPipeline, **options: object) -> list[list[int]]:
    return replies(pipe(PROMPTS, return_tensors=True, **{"batch_size": 3, **GREEDY, **options}))


@pytest.mark.parametrize("operator", ["linear_comb", "piecewise_linear", "projection"])
@pytest.mark.parametrize("family", FAMILIES)
def test_control_changes_every_row_and_every_generated_token(family: str, operator: str, lms: Lms) -> None:
    lm, a = lms[family], vectors(length=LENGTHS[family])
    pipe = control(lm, [-2])
    expected = [by_hand(lm, ids_of(text), LAYERS - 1, changes(operator, a), "all", NEW) for text in PROMPTS]
    for batch_size in (1, 2, 3):
        assert generated(pipe, activations={-2: a[None]}, operator=operator, batch_size=batch_size) == expected
    assert generated(pipe) != expected


def test_several_blocks_each_with_its_own_direction(lms: Lms) -> None:
    lm, first, second = lms["gpt_neox"], vectors(length=2), vectors(seed=1, length=2)
    both = generated(control(lm, [0, -1]), activations={0: first, -1: second, 1: first})
    assert both != generated(control(lm, 0), activations={0: first})
    assert both != generated(control(lm, 2), activations={2: second})
    assert both != generated(control(lm, [0, -1]), activations={0: second, -1: first})
    # Block 2 is block -1; named twice, it is changed once.
    assert both == generated(control(lm, [0, 2, -1]), activations={0: first, 2: second, -1: second})


def test_only_some_tokens(lms: Lms) -> None:
    lm, a = lms["llama"], vectors(length=2)
    found = generated(control(lm, 1), activations={1: a}, token_pos=-1)
    # Each pass's last token: the prompt's last, then all that is generated, which no single scope of steering names.
    expected = [by_hand_from_the_last_token(lm, ids_of(text), 1, a) for text in PROMPTS]
    assert found == expected
    assert found != generated(control(lm, 1), activations={1: a})


@torch.no_grad()
def by_hand_from_the_last_token(lm: nn.Module, prompt: list[int], block: int, a: torch.Tensor) -> list[int]:
    ids = list(prompt)
    for _ in range(NEW):
        states = lm.model.embed_tokens(torch.tensor([ids]))
        rope = lm.model.rotary_emb(states, torch.arange(len(ids))[None])
        mask = torch.full((1, 1, len(ids), len(ids)), float("-inf")).triu(1)
        for place, layer in enumerate(lm.model.layers):
            states = layer(states, attention_mask=mask, position_embeddings=rope)
            if place == block:
                states[:, len(prompt) - 1 :] += a
        ids.append(int(lm.lm_head(lm.model.norm(states))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_beams_are_changed_like_their_prompt_alone(family: str, lms: Lms) -> None:
    pipe, a = control(lms[family], [1]), vectors(length=LENGTHS[family])
    together = generated(pipe, activations={1: a}, num_beams=3)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        assert replies([pipe(prompt, activations={1: a}, num_beams=3, return_tensors=True, **GREEDY)]) == [expected]
    assert together != generated(pipe, num_beams=3)


def test_prompts_that_are_streamed_are_changed(lms: Lms) -> None:
    pipe, a = control(lms["llama"], [1]), vectors(length=2)

    def stream() -> Iterator[str]:
        yield from PROMPTS

    found = list(pipe(stream(), activations={1: a}, return_tensors=True, **GREEDY))
    assert replies(found) == generated(pipe, activations={1: a})


def test_a_part_of_the_blocks_can_be_changed(lms: Lms) -> None:
    lm, a = lms["llama"], vectors(length=2)
    found = generated(control(lm, [1], block_name="mlp"), activations={1: a})
    # What the last part of a block gives is added to what the block gives.
    assert found == generated(control(lm, [1]), activations={1: a})
    assert found != generated(control(lm, [1], block_name="input_layernorm"), activations={1: a})


@pytest.mark.parametrize("family", FAMILIES)
def test_without_activations_it_is_plain_generation(family: str, lms: Lms) -> None:
    plain = pipeline("text-generation", model=lms[family], tokenizer=byte_tokenizer(), device=lms[family].device)
    pipe = control(lms[family], [1])
    generated(pipe, activations={1: vectors()})
    assert generated(pipe) == generated(plain)
    assert pipe(PROMPTS[0], **GREEDY) == plain(PROMPTS[0], **GREEDY)


class Broken(transformers.LogitsProcessor):
    """Fails at the second token."""

    calls = 0

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            raise KeyError("second token")
        return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_on_the_model_whatever_happens(family: str, lms: Lms) -> None:
    lm = lms[family]
    modules, before, batch = [*lm.named_modules()], hooks(lm), byte_tokenizer()(PROMPTS[0], return_tensors="pt")
    with torch.no_grad():
        logits = lm(**batch).logits
    pipe = control(lm, [0, -1])
    activations = {0: vectors(), -1: vectors()}
    generated(pipe, activations=activations)
    with pytest.raises(KeyError, match="second token"):
        generated(pipe, activations=activations, logits_processor=[Broken()])
    with pytest.raises(ValueError, match="width 5"):
        generated(pipe, activations={0: torch.ones(5), -1: vectors()})
    assert hooks(lm) == before
    assert [*lm.named_modules()] == modules
    with torch.no_grad():
        assert torch.equal(lm(**batch).logits, logits)


def test_a_model_that_does_not_fit_in_one_place(tmp_path: Path, model_folders: dict[str, Path], lms: Lms) -> None:
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.rotary_emb": "cpu"}
    places |= dict.fromkeys(("model.layers.1", "model.layers.2", "model.norm", "lm_head"), "disk")
    lm = AutoModelForCausalLM.from_pretrained(model_folders["llama"], device_map=places, offload_folder=tmp_path).eval()
    tokenizer, readers, found = byte_tokenizer(), [], []
    for model in (lm, lms["llama"]):
        device = {} if model is lm else {"device": "cpu"}
        reader = pipeline("rep-reading", model=model, tokenizer=tokenizer, **device).get_directions(
            TEXTS, hidden_layers=LAYER_IDS
        )
        readers.append(reader)
        pipe = pipeline("rep-control", model=model, tokenizer=tokenizer, layers=[1, -1], **device)
        found.append(generated(pipe, activations=dict.fromkeys((1, -1), vectors(length=2))))
    assert all(np.array_equal(readers[0].directions[layer], readers[1].directions[layer]) for layer in LAYER_IDS)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("made", "called", "error", "message"),
    [
        ({"layers": [9]}, {"activations": {9: vectors()}}, IndexError, "index 9 is out of range"),
        ({"block_name": "attention"}, {"activations": {1: vectors()}}, AttributeError, "no attribute `attention`"),
        ({"control_method": "contrast_vec"}, {}, ValueError, "'contrast_vec' is not known"),
        ({}, {"activations": {0: vectors()}}, ValueError, "no entry for block 1"),
        ({}, {"activations": vectors()}, ValueError, "give a dict with one for each block"),
        ({}, {"activations": {1: vectors()}, "operator": "add"}, ValueError, "'add' must be one of"),
        ({}, {"activations": {1: vectors()}, "token_pos": "middle"}, ValueError, "token_pos 'middle'"),
        ({}, {"activations": {1: vectors()}, "token_pos": 3}, IndexError, "index 3 is out of bounds .* with size 1"),
    ],
)
def test_what_cannot_be_controlled_is_refused(
    made: dict[str, object], called: dict[str, object], error: type[Exception], message: str, lms: Lms
) -> None:
    before = hooks(lms["llama"])
    with pytest.raises(error, match=message):
        generated(control(lms["llama"], **{"layers": [1], **made}), **called)
    assert hooks(lms["llama"]) == before


def test_a_script_like_repes_runs_from_start_to_end(lms: Lms) -> None:
    lm, tokenizer = lms["qwen2"], byte_tokenizer()
    hidden_layers = list(range(-1, -lm.config.num_hidden_layers, -1))
    rep_reading_pipeline = pipeline("rep-reading", model=lm, tokenizer=tokenizer, device="cpu")
    rep_reader = rep_reading_pipeline.get_directions(
        TEXTS,
        rep_token=-1,
        hidden_layers=hidden_layers,
        n_difference=1,
        train_labels=LABELS,
        direction_method="pca",
        direction_finder_kwargs={"n_components": 1},
        batch_size=4,
        max_length=2048,
        padding="longest",
    )
    found = rep_reading_pipeline(TEXTS, rep_token=-1, hidden_layers=hidden_layers, rep_reader=rep_reader, batch_size=4)
    for layer in hidden_layers:
        scores = np.array([each[layer] for each in found]).reshape(-1, 2)
        best = scores.argmin(axis=1) if rep_reader.direction_signs[layer] == -1 else scores.argmax(axis=1)
        # The signs are chosen for this to be so on the training pairs.
        assert np.mean(best == [label.index(1) for label in LABELS]) >= 0.5

    layers = [-1, -2]
    rep_control_pipeline = pipeline(
        "rep-control",
        model=lm,
        tokenizer=tokenizer,
        layers=layers,
        block_name="decoder_block",
        control_method="reading_vec",
        device="cpu",
    )
    outputs = {}
    for coeff in (0.0, 40.0, -40.0):
        activations = {
            layer: torch.tensor(coeff * rep_reader.directions[layer] * rep_reader.direction_signs[layer]).half()
            for layer in layers
        }
        outputs[coeff] = rep_control_pipeline(
            PROMPTS, activations=activations, batch_size=2, max_new_tokens=NEW, do_sample=False
        )
    assert outputs[0.0] == rep_control_pipeline(PROMPTS, batch_size=2, max_new_tokens=NEW, do_sample=False)
    assert outputs[40.0] != outputs[0.0] != outputs[-40.0] != outputs[40.0]
    assert all(
        each["generated_text"].startswith(prompt) for prompt, (each,) in zip(PROMPTS, outputs[40.0], strict=True)
    )
