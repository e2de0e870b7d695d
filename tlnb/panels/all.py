"""All panels as tabs, in the order of the work."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w

from tlnb.panels.base import Panel
from tlnb.panels.compare_panel import ComparePanel
from tlnb.panels.data_panel import DataPanel
from tlnb.panels.layers_panel import LayersPanel
from tlnb.panels.model_panel import ModelPanel
from tlnb.panels.train_panel import TrainPanel
from tlnb.panels.use_panel import UsePanel
from tlnb.session import Session

KINDS: dict[str, type[Panel]] = {
    "data": DataPanel,
    "model": ModelPanel,
    "layers": LayersPanel,
    "train": TrainPanel,
    "compare": ComparePanel,
    "use": UsePanel,
}


class AllPanels(Panel):
    """The session's panels as tabs; it has no controls of its own."""

    def __init__(self, session: Session, panels: Sequence[Panel]) -> None:
        self.panels = panels
        self.box = w.Tab(
            children=[panel.box for panel in panels], layout=w.Layout(width="calc(100% - 4px)")
        )
        for i, panel in enumerate(panels):
            self.box.set_title(i, f"{i + 1} {panel.title}")
        self.box.tlnb_panel = self

    def close(self) -> None:
        """Close the tabs and the panels in them."""
        for panel in self.panels:
            panel.close()
        self.box.close()
