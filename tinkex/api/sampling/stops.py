"""Stop sequences of chat models: the tokens and strings that end a reply.

They are derived from the chat template and from the files next to it. The renderers in the Tinker
cookbook, in contrast, define them by hand for each model family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinkex.api.sampling.types import SamplingParams, are_token_ids
from tinkex.exceptions import UsageError

if TYPE_CHECKING:
    from tinkex.api.sampling.chat import ChatTemplate

#: Contents of sample messages, to find what the template writes after a reply.
_QUESTION, _REPLY = "content of a question", "content of a reply"


@dataclass(frozen=True)
class StopSequences:
    """The tokens and strings that end a reply of a chat model.

    :ivar tokens: id → text of each token that ends a reply.
    :ivar strings: strings that end a reply, for a template whose end of turn is not a token.
    """

    tokens: Mapping[int, str]
    strings: tuple[str, ...] = ()

    def added_to(self, params: SamplingParams) -> SamplingParams:
        """Return *params* with these stop sequences in addition to its own.

        :raises UsageError: *params* has ids of unknown tokens, and some of these are strings.
        """
        own = params.stop
        if not self.strings and (not own or are_token_ids(own)):
            return replace(params, stop=tuple(dict.fromkeys([*own, *self.tokens])))
        # The protocol allows token ids or strings, not both.
        texts = [stop if isinstance(stop, str) else self.tokens.get(stop, "") for stop in own]
        if "" in texts:
            raise UsageError(
                "this model has stop strings, so stop must contain strings, not token ids"
            )
        texts += [*self.strings, *self.tokens.values()]
        return replace(params, stop=tuple(dict.fromkeys(texts)))

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """Return *tokens* without the trailing ones that end a reply."""
        kept = list(tokens)
        while kept and kept[-1] in self.tokens:
            kept.pop()
        return kept


def stop_sequences(
    template: ChatTemplate, added: Mapping[int, str], ends: Mapping[int, str]
) -> StopSequences:
    """Return the stop sequences of a chat model.

    :param added: id → text of each token that was added to the tokenizer's vocabulary.
    :param ends: id → text of each token that ends any text of the model.
    """
    # GPT-OSS writes different tokens at the end of a conversation and before a question; only the
    # first of them ends a reply.
    last, between = _after_reply(template)
    turn = _first(added, last) or _first(added, between)
    text = "" if turn else last.strip() or between.rstrip()
    return StopSequences({**turn, **ends}, (text,) if text else ())


def _after_reply(template: ChatTemplate) -> tuple[str, str]:
    """Return what *template* writes after a reply: after the last reply, and before a question.

    Either is empty if the template does not render such a conversation.
    """
    question = {"role": "user", "content": _QUESTION}
    conversation = [question, {"role": "assistant", "content": _REPLY}]
    found = []
    for messages in (conversation, [*conversation, question]):
        rendered = ""
        with suppress(UsageError):
            rendered = template.render(messages, add_generation_prompt=False)
        _, _, after = rendered.rpartition(_REPLY)
        found.append(after.partition(_QUESTION)[0])
    return found[0], found[1]


def _first(added: Mapping[int, str], text: str) -> dict[int, str]:
    """Return the id and the text of the added token at the start of *text*, or ``{}``."""
    text = text.lstrip()
    fitting = [item for item in added.items() if item[1] and text.startswith(item[1])]
    return dict(sorted(fitting, key=lambda item: len(item[1]))[-1:])
