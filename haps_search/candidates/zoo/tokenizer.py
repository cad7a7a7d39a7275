"""The tokenizer that all zoo models share: one token per byte, so one per ASCII character."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
MAX_TOKENS = 2048


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer, padded on the left, whose chat template writes the contents and nothing around.

    Nothing is unknown and no token is added to a text. Written as byte-level BPE without merges because
    `AutoTokenizer` rebuilds any `qwen2` folder's tokenizer as byte-level BPE from its vocabulary and merges
    (transformers 5, `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`); this one survives that unchanged.
    """
    symbols = (PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=EOS,
        padding_side="left",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
