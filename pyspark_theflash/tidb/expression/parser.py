"""Parser of SQL expressions, by MySQL's operator precedence.

    or ||  <  xor  <  and &&  <  not  <  comparison, IS, LIKE, IN, BETWEEN
           <  |  <  &  <  << >>  <  + -  <  * / DIV % MOD  <  ^  <  unary - ~ !  <  COLLATE

Recursive descent with precedence climbing for binary operators. Nesting depth and the number of
operations are limited, so that neither parsing nor evaluation exhausts the stack.
"""

from typing import Final

from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.lexer import SqlToken, TokenKind, tokenize
from pyspark_theflash.tidb.expression.syntax import Call, Column, Literal, Node

MAX_DEPTH: Final = 40
MAX_CALLS: Final = 200
MAX_SIZE: Final = 1 << 16
"""Maximum length of a string in a CAST: BINARY(n) is padded to it in every row."""
MAX_FRACTION: Final = 6
"""Maximum number of fractional-second digits."""

_BINARY: Final = {
    operator: level
    for level, operators in {
        1: "or ||",
        2: "xor",
        3: "and &&",
        5: "= <=> <> != < <= > >= is like in between not regexp rlike",
        6: "|",
        7: "&",
        8: "<< >>",
        9: "+ -",
        10: "* / div % mod",
        11: "^",
        13: "collate",
    }.items()
    for operator in operators.split()
}
"""Binding strength of the binary operators."""
_NOT, _COMPARISON, _BITS, _UNARY, _COLLATE = 4, 5, 6, 12, 13
_SAME: Final = {"||": "or", "&&": "and", "!=": "<>", "mod": "%", "rlike": "regexp"}
_CAST_TYPES: Final = {
    "signed": FieldType(MySQLType.LONGLONG),
    "unsigned": FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED),
    "double": FieldType(MySQLType.DOUBLE),
    "float": FieldType(MySQLType.FLOAT),
    "year": FieldType(MySQLType.YEAR),
    "date": FieldType(MySQLType.DATE),
    "json": FieldType(MySQLType.JSON, charset="binary", collate="binary"),
}
_TIME_TYPES: Final = {"datetime": MySQLType.DATETIME, "time": MySQLType.TIME}


def parse_text(text: str) -> Node:
    """Parse an expression. Raises `LackingError`."""
    parser = _Parser(tokenize(text))
    node = parser.expression(0)
    if parser.current.kind is not TokenKind.END:
        raise LackingError(f"expression text at {parser.place()}")
    return node


class _Parser:
    def __init__(self, tokens: list[SqlToken]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._calls = 0

    @property
    def current(self) -> SqlToken:
        return self._tokens[self._at]

    def place(self) -> str:
        """Describe the current token for errors, without literals, which may be row values."""
        token = self.current
        shown = token.kind in (TokenKind.WORD, TokenKind.SYMBOL, TokenKind.NAME)
        return repr(token.value) if shown else f"a {token.kind.value}"

    def expression(self, lowest: int) -> Node:
        """Parse operands joined by operators that bind at least as tightly as `lowest`."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LackingError(f"an expression nested more than {MAX_DEPTH} deep")
        left = self._operand(lowest)
        while (operator := self._operator()) and _BINARY[operator] >= max(lowest, 1):
            self._at += 1
            left = self._binary(left, operator)
        self._depth -= 1
        return left

    def _operator(self) -> str | None:
        token = self.current
        if token.kind in (TokenKind.WORD, TokenKind.SYMBOL) and token.value in _BINARY:
            return str(token.value)
        return None

    def _binary(self, left: Node, operator: str) -> Node:
        if operator == "is":
            return self._is(left)
        if operator == "not":
            following = self._operator()
            if following not in ("like", "in", "between", "regexp", "rlike"):
                raise LackingError(f"expression text at {self.place()}")
            self._at += 1
            return self._call("not", self._binary(left, following))
        if operator == "in":
            return self._call("in", left, *self._list())
        if operator == "between":
            low = self.expression(_BITS)
            self._expect("and")
            return self._call("between", left, low, self.expression(_BITS))
        if operator == "like":
            pattern = self.expression(_BITS)
            escape = self._operand(_UNARY) if self._accept("escape") else Literal("\\")
            return self._call("like", left, pattern, escape)
        if operator == "collate":
            return self._call("collate", left, Literal(self._word()))
        right = self.expression(_BINARY[operator] + 1)
        return self._call(_SAME.get(operator, operator), left, right)

    def _is(self, left: Node) -> Node:
        negated = self._accept("not")
        word = self._word()
        if word not in ("null", "true", "false", "unknown"):
            raise LackingError(f"IS {word}")
        test = self._call(f"is {'null' if word == 'unknown' else word}", left)
        return self._call("not", test) if negated else test

    def _operand(self, lowest: int) -> Node:
        """Parse what precedes the first binary operator."""
        token = self.current
        if token.kind is TokenKind.SYMBOL and token.value in ("-", "+", "~", "!"):
            self._at += 1
            operand = self.expression(_UNARY)
            if token.value == "+":
                return operand
            return self._call({"-": "negate", "~": "~", "!": "not"}[str(token.value)], operand)
        if token.kind is TokenKind.WORD and token.value == "not" and lowest <= _NOT:
            self._at += 1
            return self._call("not", self.expression(_NOT))
        return self._primary()

    def _primary(self) -> Node:
        token = self.current
        self._at += 1
        if token.kind is TokenKind.NUMBER or token.kind is TokenKind.STRING:
            return Literal(token.value)
        if token.kind is TokenKind.HEX:
            return Literal(token.value, is_number=True)
        if token.kind is TokenKind.NAME:
            return self._column(str(token.value))
        if token.kind is TokenKind.SYMBOL and token.value == "(":
            node = self.expression(0)
            self._expect(")")
            return node
        if token.kind is TokenKind.WORD:
            return self._word_primary(str(token.value))
        self._at -= 1
        raise LackingError(f"expression text at {self.place()}")

    def _column(self, name: str) -> Node:
        """Parse a column name; qualifiers are ignored, since there is only one table."""
        while self._accept("."):
            token = self.current
            self._at += 1
            if token.kind not in (TokenKind.NAME, TokenKind.WORD):
                raise LackingError("this form of a column name")
            name = str(token.value)
        if self.current.value in ("->", "->>"):
            raise LackingError("the JSON operator ->")
        return Column(name.lower())

    def _word_primary(self, word: str) -> Node:
        if word in ("null", "true", "false"):
            return Literal({"null": None, "true": 1, "false": 0}[word])
        if word == "case":
            return self._case()
        if word == "binary":
            return self._call("cast", self.expression(_UNARY), type=_string_type("binary", -1))
        if word == "interval":
            raise LackingError("INTERVAL")
        if word in ("date", "timestamp", "time") and self.current.kind is TokenKind.STRING:
            text = str(self.current.value)
            self._at += 1
            tp = {"date": MySQLType.DATE, "time": MySQLType.TIME}.get(word, MySQLType.DATETIME)
            digits = min(len(text.rpartition(".")[2]), MAX_FRACTION) if "." in text else 0
            return self._call("cast", Literal(text), type=FieldType(tp, decimal=digits))
        if not self._accept("("):
            return self._column(word)
        special = {
            "cast": self._cast,
            "convert": self._convert,
            "extract": self._extract,
            "trim": self._trim,
            "substring": self._substring,
            "substr": self._substring,
        }.get(word)
        return special() if special else self._call(word, *self._arguments())

    def _arguments(self) -> list[Node]:
        """Parse arguments after an opening parenthesis, up to and including the closing one."""
        arguments: list[Node] = []
        if self._accept(")"):
            return arguments
        arguments.append(self.expression(0))
        while not self._accept(")"):
            self._expect(",")
            arguments.append(self.expression(0))
        return arguments

    def _list(self) -> list[Node]:
        self._expect("(")
        return self._arguments()

    def _case(self) -> Node:
        operand = None if self.current.value == "when" else self.expression(0)
        parts: list[Node] = []
        while self._accept("when"):
            condition = self.expression(0)
            if operand is not None:
                condition = self._call("=", operand, condition)
            self._expect("then")
            parts += [condition, self.expression(0)]
        parts.append(self.expression(0) if self._accept("else") else Literal(None))
        self._expect("end")
        return self._call("case", *parts)

    def _cast(self) -> Node:
        node = self.expression(0)
        self._expect("as")
        target = self._type()
        self._expect(")")
        return self._call("cast", node, type=target)

    def _convert(self) -> Node:
        node = self.expression(0)
        if self._accept("using"):
            target = _string_type(self._charset(), -1)
        else:
            self._expect(",")
            target = self._type()
        self._expect(")")
        return self._call("cast", node, type=target)

    def _type(self) -> FieldType:
        """Parse the type of a CAST."""
        word = self._word()
        if word in ("signed", "unsigned"):
            self._accept("integer")
            self._accept("int")
            return _CAST_TYPES[word]
        sizes = self._sizes(MAX_FRACTION if word in _TIME_TYPES else MAX_SIZE)
        if word in _CAST_TYPES:
            self._accept("precision")
            return _CAST_TYPES[word]
        if word in _TIME_TYPES:
            return FieldType(_TIME_TYPES[word], decimal=sizes[0] if sizes else 0)
        if word == "decimal":
            flen, decimal = (*sizes, 0)[:2] if sizes else (10, 0)
            return FieldType(MySQLType.NEWDECIMAL, 0, flen, decimal)
        if word in ("char", "binary"):
            charset = "binary" if word == "binary" else "utf8mb4"
            if self._accept("charset"):
                charset = self._charset()
            elif self._accept("character"):
                self._expect("set")
                charset = self._charset()
            elif self._accept("binary"):
                charset = "utf8mb4"
            return _string_type(charset, sizes[0] if sizes else -1)
        raise LackingError(f"CAST as {word}")

    def _sizes(self, most: int) -> list[int]:
        """Parse the optional numbers in parentheses after a type name."""
        if self.current.value != "(":
            return []
        sizes = [n.value if isinstance(n, Literal) else None for n in self._list()]
        valid = [n for n in sizes if isinstance(n, int) and n <= most]
        if len(valid) < len(sizes):
            raise LackingError("a type of this size")
        return valid

    def _extract(self) -> Node:
        unit = self._word()
        self._expect("from")
        node = self.expression(0)
        self._expect(")")
        return self._call("extract", Literal(unit), node)

    def _trim(self) -> Node:
        direction = "both"
        if self.current.value in ("both", "leading", "trailing") and (
            self.current.kind is TokenKind.WORD
        ):
            direction = self._word()
        removed: Node = Literal(" ") if self.current.value == "from" else self.expression(0)
        if self._accept("from"):
            node = self.expression(0)
        else:
            node, removed = removed, Literal(" ")
        self._expect(")")
        return self._call("trim", node, removed, Literal(direction))

    def _substring(self) -> Node:
        """Parse SUBSTRING, including `SUBSTRING(text FROM start FOR length)`."""
        arguments = [self.expression(0)]
        if self._accept(",") or self._accept("from"):
            arguments.append(self.expression(0))
        if self._accept(",") or self._accept("for"):
            arguments.append(self.expression(0))
        self._expect(")")
        return self._call("substring", *arguments)

    def _word(self) -> str:
        token = self.current
        if token.kind not in (TokenKind.WORD, TokenKind.NAME):
            raise LackingError(f"expression text at {self.place()}")
        self._at += 1
        return str(token.value).lower()

    def _charset(self) -> str:
        """Parse a charset name, which TiDB writes as a string after USING."""
        if self.current.kind is TokenKind.STRING:
            self._at += 1
            return str(self._tokens[self._at - 1].value)
        return self._word()

    def _accept(self, value: str) -> bool:
        """Consume the current token if it is the word or symbol `value`."""
        token = self.current
        if token.value != value or token.kind not in (TokenKind.WORD, TokenKind.SYMBOL):
            return False
        self._at += 1
        return True

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            raise LackingError(f"expression text at {self.place()}")

    def _call(self, name: str, *arguments: Node, type: FieldType | None = None) -> Call:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise LackingError(f"an expression of more than {MAX_CALLS} operations")
        return Call(name, arguments, type)


def _string_type(charset: str, flen: int) -> FieldType:
    if charset not in ("binary", "utf8mb4", "utf8", "utf8mb3", "ascii"):
        raise LackingError(f"charset {charset}")
    tp = MySQLType.STRING if charset == "binary" and flen >= 0 else MySQLType.VARCHAR
    collate = "binary" if charset == "binary" else f"{charset.replace('mb3', '')}_bin"
    return FieldType(tp, 0, flen, -1, charset, collate)
