"""Fine-tune a model with the official SDK."""

import tinker
from tinker import types

service = tinker.ServiceClient()
training = service.create_lora_training_client(base_model="tinkex/baker-street-2M", rank=4)
tokens = training.get_tokenizer().encode("Come, Watson, come. The game is afoot.")
weights = [1.0] * (len(tokens) - 1)
example = types.Datum(
    model_input=types.ModelInput.from_ints(tokens[:-1]),
    loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
)

losses = []
for _ in range(3):
    loss = training.forward_backward([example], "cross_entropy")
    update = training.optim_step(types.AdamParams(learning_rate=0.01))
    losses.append(loss.result().metrics["loss:sum"])
    update.result()
assert losses[-1] < losses[0]
print(f"the loss fell from {losses[0]:.1f} to {losses[-1]:.1f}")
