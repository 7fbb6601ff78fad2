"""Wire formats: what travels on the topics and over HTTP. Imports nothing else of Headrace."""

from schemas.document_change import DocumentChange, decode_change
from schemas.errors import Fatal, HeadraceError, Rejected, RequestError, Retriable
from schemas.vector_record import VectorRecord, decode_vector_record, encode_vector_record

__all__ = [
    "DocumentChange",
    "Fatal",
    "HeadraceError",
    "Rejected",
    "RequestError",
    "Retriable",
    "VectorRecord",
    "decode_change",
    "decode_vector_record",
    "encode_vector_record",
]
