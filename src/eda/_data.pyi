from collections.abc import Callable
from typing import Any, Self, TypeVar, final, overload

__all__ = ["JSON", "Bytes", "Data", "MsgPack", "Proto", "String"]

_T = TypeVar("_T")

@final
class Data:
    """A value and the name of its encoding, `type`.

    `Bytes`, `String`, `JSON`, `Proto` and `MsgPack` make it; for a registered encoding, `Data(name, value)` does, and
    for bytes that are encoded already, `Data.from_encoded(name, data)`. The value is encoded once, at publish or at the
    first `encode()`; later changes of the value have no effect. Received data holds the bytes that were received.
    """

    @property
    def type(self) -> str:
        """The name of the encoding: `bytes`, `string`, `json`, `proto`, `msgpack`, `nil`, or a registered one."""
    def __init__(self, type: str, value: Any = None) -> None:
        """Make Data of a value. Raises TypeError if `type` is not a str."""
    @classmethod
    def from_encoded(cls, type: str, data: bytes | bytearray | memoryview) -> Data:
        """Return Data whose bytes are encoded already, such as the bytes that another Data's `encode()` returned.

        `type` is the name of the encoding. It need not be registered here: only `decode()` needs the encoding. The
        bytes are not checked before `decode()`. They are published as they are. `data` may also be a bytearray or
        memoryview, which is copied. Equal to Data of the value with this encoding.

        Raises ConfigError if `type` is not a name, or `data` is not bytes.
        """
    def encode(self) -> bytes:
        """Return the encoded bytes.

        Raises EncodeError if the value can't be encoded, UnknownEncoding if the encoding is not registered.
        """
    @overload
    def decode(self) -> Any:
        """Return the Python value.

        `into` is the type of the result: a dataclass, TypedDict, msgspec.Struct, attrs class or pydantic model. For
        `proto` it is the message class, and required. Raises DecodeError (with `event_id`) if the bytes can't be
        decoded, UnknownEncoding if the encoding is not registered, ConfigError for `proto` without `into`.
        """
    @overload
    def decode(self, into: Callable[..., _T]) -> _T: ...
    @overload
    def decode(self, into: Any) -> Any: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: Any) -> Self: ...

def Bytes(value: bytes | bytearray | memoryview) -> Data:
    """Return Data of raw bytes: bytes, bytearray or memoryview. The latter two are copied, since they can change."""

def String(value: str) -> Data:
    """Return Data of a text, encoded as UTF-8."""

def JSON(value: Any) -> Data:
    """Return Data of a value that msgspec can encode as JSON, such as a dict, a dataclass or a Struct."""

def Proto(message: Any) -> Data:
    """Return Data of a protobuf message."""

def MsgPack(value: Any) -> Data:
    """Return Data of a value that can be encoded as MessagePack."""
