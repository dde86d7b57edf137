"""Payload classes: the user's classes for the payloads of events, declared with `eda.payload`.

The files, each after those that it imports:

    kinds         which classes can be payload classes, and their fields
    round_trip    whether a class gets back from its bytes what was put into them
    registry      `payload`: the declared classes, by class, by type and by alias
    plain_fields  which payloads are read back as they were written
    upcasters     `upcast`: functions that bring plain data of an old schema to a newer one
    decoding      decoding that needs more than the decoder of the class: old schemas, other encodings, errors
"""

__all__: list[str] = []
