"""From change events to vector records: everything the embed worker does but Faust."""
