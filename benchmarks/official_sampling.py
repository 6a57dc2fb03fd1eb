"""Sample with the official SDK; run by ``batch.py`` with the Python that has it.

Prints one JSON object: seconds, CPU seconds and the peak of memory in MiB. The clock runs from the
first sample handed in to the last result; imports and the session are not counted.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import tinker
from answers import BASE_MODEL
from tinker import types


async def sample(count: int, length: int, concurrency: int) -> dict[str, float]:
    """Sample *count* prompts of *length* tokens, *concurrency* at once."""
    service = tinker.ServiceClient()
    client = await service.create_sampling_client_async(base_model=BASE_MODEL)
    params = types.SamplingParams(max_tokens=64, temperature=1.0)
    gate = asyncio.Semaphore(concurrency)

    async def one(number: int) -> int:
        async with gate:
            prompt = types.ModelInput.from_ints([number % 1000 + n for n in range(length)])
            response = await client.sample_async(
                prompt=prompt, sampling_params=params, num_samples=1
            )
        return len(response.sequences[0].tokens)

    await one(0)  # the first makes connections
    began, worked = time.perf_counter(), time.process_time()
    tokens = await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.perf_counter() - began
    cpu = time.process_time() - worked
    assert min(tokens) > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    per_mib = 1024 if sys.platform == "linux" else 1024 * 1024
    return {"seconds": seconds, "cpu": cpu, "peak_mib": peak / per_mib}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(sample(*map(int, sys.argv[1:4])))))
