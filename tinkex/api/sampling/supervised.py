"""Supervised examples: rows of data as token ids, with a weight for each token.

A row is a conversation, a prompt with its completion, or a text. The weight of a token is 1 if a
model should learn to predict it (or if its probability should be measured), else 0.

In a conversation, the tokens of the assistant have weight 1. A template can mark these tokens with
``{% generation %}``. Without this tag, the messages are rendered once without the reply, as a
prompt, and once with the reply. The text that the second rendering adds is the reply.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import ClassVar, Literal

from tinkex.api.sampling.chat import ChatTemplate
from tinkex.api.sampling.dataset import Completion, Conversation, Message, SupervisedRow, Text
from tinkex.api.sampling.tokenizer import Tokenizer
from tinkex.exceptions import ChatTemplateError, TinkexError, UsageError

Span = tuple[int, int]

#: End of a reasoning section, which many templates reformat.
_THOUGHT = "</think>"


@dataclass(frozen=True)
class SupervisedExample:
    """The tokens of an example.

    :ivar tokens: token ids, N of them.
    :ivar weights: 0 or 1 for each token, N of them; the first is 0, because nothing predicts it.
    :ivar is_truncated: whether tokens at the end were removed.
    """

    tokens: Sequence[int]
    weights: Sequence[int]
    is_truncated: bool = False

    @property
    def num_trained(self) -> int:
        """Number of tokens with weight 1."""
        return sum(self.weights)


class ExampleBuilder:
    """Converts rows to examples.

    :param train_on: which messages of a conversation are trained: every message of the
        ``assistant``, the ``last`` of them, or ``all`` tokens. Flags in a row take precedence.
    :param max_length: maximum number of tokens of an example. A longer text becomes several
        examples; other examples lose tokens at the end.
    :param end_completions: append the token that ends a text to completions.
    """

    #: The values of *train_on*.
    TRAIN_ON: ClassVar[tuple[str, ...]] = ("assistant", "last", "all")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        train_on: Literal["assistant", "last", "all"] = "assistant",
        max_length: int | None = None,
        end_completions: bool = True,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise UsageError(f"the maximum length must be at least 2 tokens, not {max_length}")
        self._tokenizer = tokenizer
        self._train_on = train_on
        self._max_length = max_length
        self._end_completions = end_completions

    def build(self, row: SupervisedRow) -> list[SupervisedExample]:
        """Return the examples of *row*: at least one.

        A conversation usually is one example. Exception: some templates render a reply differently
        if other messages follow, for example without its reasoning. Such a reply gets a separate
        example, which ends with the reply.

        :raises UsageError: the row is invalid, or has no token to train on.
        :raises ChatTemplateError: there is no chat template, or it does not show which tokens are
            the assistant's.
        """
        try:
            examples = [example for example in self._examples(row.content) if example.num_trained]
        except TinkexError as error:
            raise type(error)(f"{row.where}: {error}", hint=error.hint) from error
        if not examples:
            where = f" in the first {self._max_length} tokens" if self._max_length else ""
            raise UsageError(f"{row.where}: no token to train on{where}")
        return examples

    def _examples(self, content: Conversation | Completion | Text) -> Iterator[SupervisedExample]:
        if isinstance(content, Text):
            yield from self._windows(self._tokenizer.encode(content.text))
        elif isinstance(content, Completion):
            yield self._truncated(*self._completion(content))
        elif self._train_on == "all" and content.trained is None:
            text = self._tokenizer.template.render(
                content.messages, tools=content.tools, add_generation_prompt=False
            )
            tokens = self._tokenizer.encode(text, special=False)
            yield self._truncated(tokens, [1] * len(tokens))
        else:
            for text, spans in self._marked(content):
                yield self._truncated(*self._weighted(text, spans))

    def _windows(self, tokens: list[int]) -> Iterator[SupervisedExample]:
        """Yield examples that together predict each token but the first exactly once."""
        size = self._max_length or max(len(tokens), 2)
        for start in range(0, len(tokens) - 1, size - 1):
            window = tokens[start : start + size]
            yield self._truncated(window, [1] * len(window))

    def _completion(self, content: Completion) -> tuple[list[int], list[int]]:
        prompt = self._tokenizer.encode(content.prompt)
        tokens = self._tokenizer.encode(content.prompt + content.completion)
        if tokens[: len(prompt)] != prompt:
            # A token across the boundary could not be sampled after this prompt.
            tokens = [*prompt, *self._tokenizer.encode(content.completion, special=False)]
        end = self._tokenizer.end_of_text if self._end_completions else None
        if end is not None and tokens[-1] != end:
            tokens.append(end)
        return tokens, [0] * len(prompt) + [1] * (len(tokens) - len(prompt))

    def _truncated(self, tokens: Sequence[int], weights: Sequence[int]) -> SupervisedExample:
        """Return the example without the tokens after the last one with a weight."""
        weights = bytes([0, *weights[1:]])
        used = weights.rfind(b"\1") + 1
        size = min(used, self._max_length or used)
        return SupervisedExample(array("i", tokens[:size]), weights[:size], size < used)

    def _marked(self, content: Conversation) -> Iterator[tuple[str, list[Span]]]:
        """Yield the texts of a conversation, each with the spans of its trained replies."""
        template, messages = self._tokenizer.template, content.messages
        replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if content.trained is not None:
            chosen = [i for i, is_trained in enumerate(content.trained) if is_trained]
        else:
            chosen = replies[-1:] if self._train_on == "last" else replies
        if not set(chosen) <= set(replies):
            raise UsageError("the model can be trained only on assistant messages")
        if not chosen:
            raise UsageError("no assistant message to train on")
        generated = template.render_generated(messages, tools=content.tools)
        if generated and len(generated[1]) == len(replies):
            text, spans = generated
            yield text, [span for i, span in zip(replies, spans, strict=True) if i in chosen]
            return
        yield from self._by_prefixes(template, content, chosen)

    def _by_prefixes(
        self, template: ChatTemplate, content: Conversation, chosen: list[int]
    ) -> Iterator[tuple[str, list[Span]]]:
        prefixes = _Prefixes(template, content, self._tokenizer.added_tokens)
        whole = prefixes.upto(len(content.messages))
        shared: list[Span] = []
        for number in chosen:
            text, span = prefixes.reply(number)
            if whole.startswith(text[: span[1]]):
                shared.append(span)
            else:
                yield text, [span]
        if shared:
            yield whole, shared

    def _weighted(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
        """Return the tokens of *text*, and weight 1 for those that begin inside a span."""
        tokens, offsets = self._tokenizer.encode_with_offsets(text)
        edges = [start for start, _ in spans]
        if any(a < edge < b for a, b in offsets for edge in edges if edge > 0):
            tokens, offsets = self._encoded_apart(text, edges)
        weights = [0] * len(tokens)
        remaining = iter(sorted(spans))
        span = next(remaining, None)
        for i, (start, end) in enumerate(offsets):
            while span and start >= span[1]:
                span = next(remaining, None)
            weights[i] = int(span is not None and span[0] <= start and end > start)
        return tokens, weights

    def _encoded_apart(self, text: str, edges: Sequence[int]) -> tuple[list[int], list[Span]]:
        """Encode the text between *edges* separately, because replies begin at a token boundary."""
        tokens: list[int] = []
        offsets: list[Span] = []
        for start, end in zip([0, *edges], [*edges, len(text)], strict=True):
            ids, places = self._tokenizer.encode_with_offsets(text[start:end])
            tokens += ids
            offsets += [(start + a, start + b) for a, b in places]
        whole = self._tokenizer.encode(text, special=False)
        decode = self._tokenizer.decode
        if decode(tokens, strip_end=False) != decode(whole, strip_end=False):
            raise ChatTemplateError("the tokenizer cannot separate a reply from its prompt")
        return tokens, offsets


class _Prefixes:
    """Finds replies by rendering the conversation up to them.

    :param added_tokens: the text of tokens such as ``<|im_end|>``.
    """

    def __init__(
        self, template: ChatTemplate, content: Conversation, added_tokens: frozenset[str]
    ) -> None:
        self._template = template
        self._content = content
        self._ends = tuple(added_tokens)

    def upto(self, count: int, *more: Message, prompt: bool = False) -> str:
        """Render the first *count* messages and *more*."""
        return self._template.render(
            [*self._content.messages[:count], *more],
            tools=self._content.tools,
            add_generation_prompt=prompt,
        )

    def reply(self, number: int) -> tuple[str, Span]:
        """Return the text up to message *number*, from 0, and the span of that message.

        :raises ChatTemplateError: the template does not show where the reply begins.
        """
        text = self.upto(number + 1)
        prompt = self.upto(number, prompt=True) if number else ""
        start = len(prompt)
        if not number or not text.startswith(prompt):
            start = len(self._header(number, text, prompt))
        message = str(self._content.messages[number]["content"])
        if message.rpartition(_THOUGHT)[2].strip() not in text[start:]:
            raise ChatTemplateError(
                f"the chat template has no usable generation tags, and does not render message "
                f"{number + 1} unchanged after its prompt"
            )
        # White space after the end of a turn belongs to the next message.
        stripped = text.rstrip()
        end = len(stripped) if stripped.endswith(self._ends) else len(text)
        return text, (start, max(start, end))

    def _header(self, number: int, text: str, prompt: str) -> str:
        """Return the text before message *number*, which the *prompt* for it may continue.

        Templates that begin a reply with its reasoning do so in the prompt only.
        """
        probes = [{**self._content.messages[number], "content": probe} for probe in ("A", "Z")]
        header = commonprefix([self.upto(number, probe) for probe in probes])
        if not text.startswith(header) or (number and not prompt.startswith(header)):
            raise ChatTemplateError(
                f"the chat template has no usable generation tags, and the prompt for message "
                f"{number + 1} is not a prefix of the conversation up to that message"
            )
        return header
