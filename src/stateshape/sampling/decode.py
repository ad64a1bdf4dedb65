"""One decoding step for every row in use, on tensors at fixed addresses, so that a GPU can replay it as a graph.

The step reads its tokens, positions and counts from buffers, appends the drawn tokens and advances by
itself: `burst` steps run without the host. For our own decoder on a GPU rows and width are rounded up, so that few
graphs are enough, and a graph is recorded the first time a shape occurs; elsewhere shapes are exact and nothing is recorded.

Floor of a step at R rows: 2 P R FLOPs for P weights on a CPU; on a GPU the bytes of weights and cache in use.

Suffixes: C row of the result, R row in use, S step, K step of a burst.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.tensors import logits_of
from stateshape.policy.decoder import Decoder, ForwardPass
from stateshape.sampling.draw import draw
from stateshape.sampling.settings import SamplingSettings
from stateshape.sampling.slots import RowCache

ROW_STEP, PLACE_STEP = 16, 128  # what a GPU's shapes are rounded up to


def is_recorded(device: torch.device) -> bool:
    """Whether our own decoder's steps are recorded: there, starting an operation takes longer than running it."""
    return device.type == "cuda"


class Recorder:
    """Records steps as CUDA graphs. They run one after another and keep no state, so they share memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, pool=self.pool):
            step()
        return recorded


class Decoding:
    """The buffers of one call of the sampler, and the step on them."""

    def __init__(
        self, forward: ForwardPass, head: Head, slots: RowCache, uniform_CS: Tensor, *, temperature: float, burst: int
    ) -> None:
        self.recorder: Recorder | None = None
        self.forward = forward
        if isinstance(forward, Decoder):
            self.forward = forward.with_table(slots.num_places)
            # without a table the rotary asks the host how long the rows are, which can't be recorded
            if self.forward.table is not None and is_recorded(head.weight_VD.device):
                # a recorded step reads the adapter at a fixed address: its own copy, which the next call overwrites
                self.recorder, self.forward = Recorder(), self.forward.with_own_adapter()
        self.head, self.slots, self.uniform_CS, self.temperature = head, slots, uniform_CS, temperature
        self.burst = burst
        size, device = slots.num_slots, head.weight_VD.device
        self.token_R = torch.zeros(size, dtype=torch.int64, device=device)
        self.position_R = torch.zeros_like(self.token_R)
        self.number_R = torch.zeros_like(self.token_R)
        self.step_R = torch.zeros_like(self.token_R)
        self.tokens_KR = torch.zeros(self.burst, size, dtype=torch.int64, device=device)
        self.logps_KR = torch.zeros(
            self.burst, size, dtype=torch.promote_types(head.weight_VD.dtype, torch.float32), device=device
        )
        self.turn = torch.zeros(1, dtype=torch.int64, device=device)
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def run(self, num_rows: int, width: int) -> tuple[list[list[int]], list[list[float]]]:
        """The next `burst` tokens of the first rows and their log-probs, [K][R]. `width`: places in use before it."""
        rows, places = num_rows, width + self.burst
        if self.recorder is not None:
            rows, places = round_up(rows, ROW_STEP), round_up(places, PLACE_STEP)
        rows, places = min(rows, self.slots.num_slots), min(places, self.slots.num_places)
        self.turn.zero_()
        for _ in range(self.burst):
            if self.recorder is not None:
                self.graph(rows, places, self.recorder).replay()
            else:
                self.step(rows, places)
        return self.tokens_KR[:, :num_rows].tolist(), self.logps_KR[:, :num_rows].tolist()

    def take_on(self, forward: ForwardPass, uniform_CS: Tensor, settings: SamplingSettings, *, longest: int) -> bool:
        """Prepares for another call, if it is of the same kind and fits; recorded steps stay valid.

        `longest`: tokens of the longest prompt.
        """
        rows, steps = uniform_CS.shape
        fits = rows <= self.uniform_CS.shape[0] and steps <= self.uniform_CS.shape[1]
        has_room = settings.num_samples <= self.slots.num_slots and longest + steps <= self.slots.num_places
        if not (fits and has_room and settings.temperature == self.temperature):
            return False
        if not (
            isinstance(self.forward, Decoder) and isinstance(forward, Decoder) and self.forward.take_adapter(forward)
        ):
            return False
        self.uniform_CS[:rows, :steps] = uniform_CS
        return True

    def step(self, rows: int, places: int) -> None:
        position_R = self.position_R[:rows]
        self.slots.begin(position_R, places)
        hidden_RD = self.forward(self.token_R[:rows], position_R, self.slots)
        token_R, logp_R = self.draw(hidden_RD, self.number_R[:rows], self.step_R[:rows])
        self.token_R[:rows] = token_R
        self.tokens_KR[:, :rows].index_copy_(0, self.turn, token_R[None])
        self.logps_KR[:, :rows].index_copy_(0, self.turn, logp_R[None])
        # a row that is unread, or padding, must stay inside its slot
        self.position_R[:rows] = (position_R + 1).clamp_max(self.slots.num_places - 1)
        self.step_R[:rows] = (self.step_R[:rows] + 1).clamp_max(self.uniform_CS.shape[1] - 1)
        self.turn += 1

    def draw(self, hidden_RD: Tensor, number_R: Tensor, step_R: Tensor) -> tuple[Tensor, Tensor]:
        logits_RV = logits_of(hidden_RD, self.head, self.temperature or 1.0)
        return draw(logits_RV, self.uniform_CS[number_R, step_R], greedy=self.temperature == 0)

    def enter(self, rows: slice, *, tokens: Tensor, positions: Tensor, numbers: Tensor) -> None:
        """Adds prefilled rows: their first token is drawn and is at `positions`."""
        self.token_R[rows], self.position_R[rows], self.number_R[rows] = tokens, positions, numbers
        self.step_R[rows] = 1

    def move(self, source: int, target: int, length: int) -> None:
        """Moves a row to another slot. `length`: its places in use."""
        self.slots.move(source, target, length)
        for buffer in (self.token_R, self.position_R, self.number_R, self.step_R):
            buffer[target] = buffer[source]

    def graph(self, rows: int, places: int, recorder: Recorder) -> torch.cuda.CUDAGraph:
        """The step at this shape, recorded. It runs once before recording, so its changes are undone."""
        if (rows, places) not in self.graphs:
            changed = (self.token_R, self.position_R, self.step_R, self.turn, self.tokens_KR, self.logps_KR)
            before = [buffer.clone() for buffer in changed]
            self.step(rows, places)  # kernels are chosen and workspaces allocated outside the recording
            recorded = recorder(partial(self.step, rows, places))
            for buffer, value in zip(changed, before, strict=True):
                buffer.copy_(value)
            self.graphs[rows, places] = recorded
        return self.graphs[rows, places]


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step
