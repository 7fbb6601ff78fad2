"""Publishing document changes: `DocumentPublisher` and `HeadraceClient` for applications, `headrace publish` for files
and pipes."""

from app.kafka.producer import Position
from producers.client import Applied, HeadraceClient
from producers.publisher import Delivery, DocumentPublisher, min_offsets

__all__ = ["Applied", "Delivery", "DocumentPublisher", "HeadraceClient", "Position", "min_offsets"]
