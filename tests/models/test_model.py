"""The model as a stack of blocks: which blocks are found, its context length, and what is refused."""

from pathlib import Path

import pytest
import torch
import transformers
from conftest import LAYERS, byte_tokenizer, config, load
from test_hidden_states import TEXTS

from repe.errors import UserError
from repe.models.model import Model


def test_the_context_of_roberta_starts_after_the_padding_position(tmp_path: Path) -> None:
    usual = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    made = transformers.RobertaConfig(**usual, num_attention_heads=2, max_position_embeddings=64, pad_token_id=1)
    transformers.RobertaModel(made).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.max_tokens == 62
    assert model.states(["a" * 61]).isfinite().all()


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    made = transformers.T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2)
    transformers.T5Model(made).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="T5Model is an encoder-decoder: use a causal or an encoder model"):
        load(tmp_path)


def test_of_a_model_for_images_and_text_the_text_part_is_used(tmp_path: Path) -> None:
    text = config("gemma3")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        # As many layers as the text part, so that their number alone does not identify the blocks.
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    whole = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    reference = transformers.Gemma3ForConditionalGeneration(whole).eval()
    reference.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    states = load(tmp_path).states(TEXTS)
    with torch.no_grad():
        for place, text_ in enumerate(TEXTS):
            ids = torch.tensor([tokenizer(text_)["input_ids"]])
            own = reference.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
            expected = torch.stack(own)[:, 0, -1]
            torch.testing.assert_close(states[:, place], expected, rtol=1e-4, atol=1e-5)


def test_a_model_in_memory_is_not_copied_and_runs_in_evaluation_mode() -> None:
    lm = transformers.AutoModelForCausalLM.from_config(config("llama")).train()
    model = Model(lm, byte_tokenizer())
    assert (model.lm, model.trunk, model.blocks) == (lm, lm.model, lm.model.layers)
    assert not lm.training
    assert (model.layers, model.hidden_size, model.max_tokens, model.dtype) == (LAYERS, 32, 256, torch.float32)


def test_a_trunk_has_no_vocabulary_head() -> None:
    trunk = transformers.AutoModel.from_config(config("llama"))
    model = Model(trunk, byte_tokenizer())
    assert model.lm is None
    assert model.trunk is trunk


def test_a_stack_of_unknown_form_is_refused() -> None:
    trunk = transformers.AutoModel.from_config(config("llama"))
    trunk.config.num_hidden_layers = LAYERS + 1
    with pytest.raises(UserError, match=f"LlamaModel has no list of {LAYERS + 1} blocks: this architecture is not"):
        Model(trunk, byte_tokenizer())


def test_a_template_without_a_place_for_the_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"does not contain \{input\}"):
        Model(transformers.AutoModel.from_config(config("llama")), byte_tokenizer(), "Q:")
