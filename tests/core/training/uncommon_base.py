"""What the uncommon networks have in common, and where they are listed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NETWORKS: dict[str, Callable[[], nn.Module]] = {}


def network(name: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def noted(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in NETWORKS
        NETWORKS[name] = make
        return make

    return noted


class Net(nn.Module):
    """Three convolutions and an output layer; the others differ from it in one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def early(self, x: Tensor) -> Tensor:
        return self.a(x).relu()

    def middle(self, x: Tensor) -> Tensor:
        return self.b(x).relu()

    def late(self, x: Tensor) -> Tensor:
        return self.c(x).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.middle(self.early(x))))


NETWORKS["plain"] = Net


def early(name: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """A network that changes what its first layer gives."""
    _changed(name, "early", change)


def _changed(name: str, where: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    def method(self: nn.Module, x: Tensor) -> Tensor:
        return change(self, getattr(Net, where)(self, x))

    NETWORKS[f"{name}, {where}"] = type("Changed", (Net,), {where: method})


def anywhere(name: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    for where in ("early", "late"):
        _changed(name, where, change)
