"""Publishing document changes: `DocumentPublisher` for applications, `headrace publish` for files and pipes."""

from app.kafka.producer import Position
from producers.publisher import DocumentPublisher, min_offsets

__all__ = ["DocumentPublisher", "Position", "min_offsets"]
