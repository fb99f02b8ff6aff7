package io.theflash.spark

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.sql.connector.expressions.filter.Predicate
import org.apache.spark.sql.connector.expressions.{
  Cast,
  Expression,
  Extract,
  GeneralScalarExpression,
  Literal,
  NamedReference,
  UserDefinedScalarFunc
}
import org.apache.spark.sql.types._

/** Translator of expressions in groups and aggregates, which the store evaluates.
  *
  * A request contains the type of each value: a cast is added where Spark computes with another
  * type than the column's, or a literal has none. Operations that may raise (arithmetic, most
  * casts) are evaluated only for the rows for which Spark evaluates them. They are not translated
  * within conditions, where these rows are unknown.
  */
private[spark] final class Computed(expressions: Expressions) {
  import Computed._
  import Expressions.{Value, all, call}

  /** A value in exactly its type, or a column unchanged; None if it cannot be translated. */
  def value(expression: Expression): Option[Value] = expression match {
    case column: NamedReference => expressions.value(column)
    case other                  => made(other).flatMap(typed)
  }

  /** A summand, in a type that may be narrower than its own. */
  def summand(expression: Expression): Option[Value] =
    expressions.value(expression).orElse(value(expression))

  private def typed(value: Value): Option[Value] =
    if (value.dataType == BooleanType) Some(value)
    else named(value.dataType).map { name =>
      value.copy(term = call(s"as $name", Seq(value.term)))
    }

  private def made(expression: Expression): Option[Value] = expression match {
    case predicate: Predicate if predicate.name() != "BOOLEAN_EXPRESSION" =>
      expressions.condition(predicate).map(Value(_, BooleanType))
    case _: NamedReference | _: Literal[_] => expressions.value(expression)
    case cast: Cast                        => expressions.value(cast).orElse(castOf(cast))
    case part: Extract =>
      for {
        name <- Parts.get(part.field())
        source <- made(part.source()) if source.dataType == DateType
      } yield Value(call(name, Seq(source.term)), IntegerType)
    case function: UserDefinedScalarFunc => zoned(function)
    case operation: GeneralScalarExpression =>
      val arguments = operation.children().toSeq
      operation.name() match {
        case "CASE_WHEN" => choice(arguments)
        case "COALESCE"  => alike(arguments).map { case (values, dataType) =>
            Value(call("coalesce", values), dataType)
          }
        case "SUBSTRING"   => substring(arguments)
        case "CHAR_LENGTH" => text("length", arguments, IntegerType)
        case "FLOOR"       => double("floor", arguments)
        case "CEIL"        => double("ceil", arguments)
        case "TRUNC"       => trunc(arguments)
        case _             => expressions.value(operation).orElse(arithmetic(operation))
      }
    case _ => None
  }

  /** All arguments in their common Spark type, which NULL adopts; None if the types differ. */
  private def alike(arguments: Seq[Expression]): Option[(Seq[JsonNode], DataType)] =
    all(arguments.map(made)).flatMap { values =>
      values.map(_.dataType).filter(_ != NullType).distinct match {
        case Seq(dataType) =>
          all(values.map(each => typed(each.copy(dataType = dataType)))).map { typedValues =>
            (typedValues.map(_.term), dataType)
          }
        case _ => None
      }
    }

  private def choice(arguments: Seq[Expression]): Option[Value] = {
    val pairs = arguments.grouped(2).toSeq
    val conditions = pairs.collect { case Seq(condition, _) => condition }
    val values = pairs.map(_.last)
    for {
      whens <- all(conditions.map {
        case condition: Predicate => expressions.condition(condition)
        case _                    => None
      })
      (results, dataType) <- alike(values) if dataType != BooleanType
    } yield {
      val branches = whens.zip(results).flatMap { case (condition, value) => Seq(condition, value) }
      Value(call("case", branches ++ results.drop(whens.length)), dataType)
    }
  }

  private def castOf(cast: Cast): Option[Value] =
    made(cast.expression()).filter(from => isExact(from.dataType, cast.dataType())).flatMap {
      from => typed(from).flatMap(each => typed(each.copy(dataType = cast.dataType())))
    }

  private def arithmetic(operation: GeneralScalarExpression): Option[Value] =
    operation.children().toSeq match {
      case Seq(left, right) =>
        for {
          a <- made(left)
          b <- made(right)
          if a.dataType == b.dataType
          name <- named(a.dataType)
          if Operators.get(a.dataType).exists(_.contains(operation.name()))
          // Spark folds operations of literals only.
          x <- operand(left, a)
          y <- operand(right, b)
        } yield Value(call(s"$name ${operation.name()}", Seq(x, y)), a.dataType)
      case _ => None
    }

  private def operand(expression: Expression, value: Value): Option[JsonNode] =
    expression match {
      case literal: Literal[_] => Option.when(literal.value() != null)(value.term)
      case _                   => typed(value).map(_.term)
    }

  private def substring(arguments: Seq[Expression]): Option[Value] = {
    val places = arguments.drop(1).map {
      case literal: Literal[_] => Option(literal.value()).collect { case n: Integer => n.intValue }
      case _                   => None
    }
    for {
      source <- made(arguments.head) if source.dataType == StringType
      numbers <- all(places) if numbers.head >= 0 && numbers.drop(1).forall(_ > 0)
    } yield Value(call("substring", source.term +: numbers.map(n => whole(n.toLong))), StringType)
  }

  private def text(name: String, arguments: Seq[Expression], dataType: DataType): Option[Value] =
    arguments match {
      case Seq(argument) =>
        made(argument).filter(_.dataType == StringType).map { source =>
          Value(call(name, Seq(source.term)), dataType)
        }
      case _ => None
    }

  private def double(name: String, arguments: Seq[Expression]): Option[Value] = arguments match {
    case Seq(argument) =>
      made(argument).filter(_.dataType == DoubleType).flatMap(typed).map { source =>
        Value(call(name, Seq(source.term)), LongType)
      }
    case _ => None
  }

  private def trunc(arguments: Seq[Expression]): Option[Value] = arguments match {
    case Seq(date, format: Literal[_]) =>
      for {
        unit <- Zoned.unit(format.value()) if Zoned.Days.contains(unit)
        source <- made(date) if source.dataType == DateType
      } yield Value(call("trunc", Seq(words(unit), source.term)), DateType)
    case _ => None
  }

  /** Translates a function of a timestamp in a fixed-offset zone; see `Zoned`. */
  private def zoned(function: UserDefinedScalarFunc): Option[Value] =
    for {
      zonedCall <- Zoned.decoded(function.canonicalName())
      source <- function.children().toSeq.lastOption.flatMap(made)
      offset = whole(zonedCall.offsetUs)
      local <- source.dataType match {
        case TimestampType    => Some(call("local", Seq(source.term, offset)))
        case TimestampNTZType => Some(source.term)
        case _                => None
      }
    } yield zonedCall.name match {
      case "date_trunc" =>
        val begin = call("date_trunc", Seq(words(zonedCall.unit), local))
        Value(call("instant", Seq(begin, offset)), TimestampType)
      case "instant" => Value(call("instant", Seq(local, offset)), TimestampType)
      case "date"    => Value(call("date", Seq(local)), DateType)
      case name   => Value(call(name, Seq(local)), IntegerType)
    }

  private def whole(number: Long): JsonNode = literal("int", number.toString)

  private def words(text: String): JsonNode = literal("string", text)

  private def literal(kind: String, text: String): JsonNode =
    Messages.message(
      "name" -> Messages.text("literal"),
      "literal" -> Messages.message("type" -> Messages.text(kind), "text" -> Messages.text(text))
    )
}

private[spark] object Computed {
  private val Parts = Map(
    "YEAR" -> "year",
    "QUARTER" -> "quarter",
    "MONTH" -> "month",
    "DAY" -> "day",
    "DAY_OF_YEAR" -> "day of year",
    "DAY_OF_WEEK" -> "day of week",
    "WEEK" -> "week",
    "YEAR_OF_WEEK" -> "year of week"
  )
  private val WholeOperators = Set("+", "-", "*", "%")
  private val Operators: Map[DataType, Set[String]] = Map(
    ByteType -> WholeOperators,
    ShortType -> WholeOperators,
    IntegerType -> WholeOperators,
    LongType -> WholeOperators,
    DoubleType -> Set("+", "-", "*", "/")
  )
  private val Names: Map[DataType, String] = Map(
    ByteType -> "tinyint",
    ShortType -> "smallint",
    IntegerType -> "int",
    LongType -> "bigint",
    FloatType -> "float",
    DoubleType -> "double",
    StringType -> "string",
    BinaryType -> "binary",
    DateType -> "date",
    TimestampType -> "timestamp",
    TimestampNTZType -> "timestamp_ntz"
  )

  private val DoubleDigits = 15

  private def named(dataType: DataType): Option[String] = dataType match {
    case decimal: DecimalType => Some(s"decimal(${decimal.precision},${decimal.scale})")
    case other                => Names.get(other)
  }

  /** Supported casts that change values. */
  private def isExact(from: DataType, to: DataType): Boolean = (from, to) match {
    case (whole, DoubleType) if Expressions.isWhole(whole)   => true
    case (decimal: DecimalType, DoubleType)                  => decimal.precision <= DoubleDigits
    case (FloatType, DoubleType)                             => true
    case (DoubleType, IntegerType | LongType)                => true
    case (from, to) if Expressions.isWhole(from) && Expressions.isWhole(to) => true
    case _                                                   => false
  }
}
