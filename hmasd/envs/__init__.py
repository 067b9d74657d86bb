"""The batched environments: their protocol, registry, checks and adapters."""
