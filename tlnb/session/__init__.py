"""The session: what magics, panels and programs call."""

from tlnb.session.session import PANELS as PANELS
from tlnb.session.session import Session as Session
