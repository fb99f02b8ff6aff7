"""Field numbers of generated protobuf stubs."""

from types import ModuleType


def field_numbers(module: ModuleType) -> dict[str, int]:
    return {
        f"{message.name}.{field.name}": field.number
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
