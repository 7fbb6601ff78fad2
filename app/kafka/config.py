"""Connection settings in the words of the two Kafka clients: librdkafka (confluent-kafka) and aiokafka (Faust)."""

from __future__ import annotations

import ssl
from typing import Any

from app.settings import Settings


def librdkafka_config(settings: Settings, client_id: str) -> dict[str, Any]:
    """Configuration for confluent-kafka's producers, consumers and admin client."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.brokers,
        "client.id": client_id,
        "security.protocol": settings.kafka_security_protocol,
        # a broker whose machine is gone closes no connection: what it was asked is asked again after this
        "socket.timeout.ms": 20_000,
        "log_level": 2,  # critical only: this program reports broken connections itself, once, in its own words
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    if settings.kafka_security_protocol.endswith("SSL"):
        password = settings.kafka_ssl_key_password
        files = {
            "ssl.ca.location": settings.kafka_ssl_ca,
            "ssl.certificate.location": settings.kafka_ssl_certificate,
            "ssl.key.location": settings.kafka_ssl_key,
            "ssl.key.password": password.get_secret_value() if password else None,
        }
        config |= {name: str(value) for name, value in files.items() if value is not None}
    return config


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """For aiokafka; None where the protocol is not over TLS."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca)
    if settings.kafka_ssl_certificate is not None:
        password = settings.kafka_ssl_key_password
        context.load_cert_chain(
            settings.kafka_ssl_certificate,
            settings.kafka_ssl_key,
            password.get_secret_value() if password else None,
        )
    return context
