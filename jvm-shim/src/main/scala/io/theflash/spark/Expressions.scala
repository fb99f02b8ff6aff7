package io.theflash.spark

import java.util.Base64

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.sql.connector.expressions.filter.Predicate
import org.apache.spark.sql.connector.expressions.{
  Cast,
  Expression,
  GeneralScalarExpression,
  Literal,
  NamedReference
}
import org.apache.spark.sql.types._

/** Translator of Spark's expressions to those of the API, if both are known to be equivalent.
  *
  * A cast that changes no value is omitted. Other casts, and expressions that are not listed here,
  * are left to Spark.
  *
  * @param columns the table's columns, by name
  */
private[spark] final class Expressions(columns: Map[String, StructField]) {
  import Expressions._

  /** A condition; None if it cannot be translated. */
  def condition(predicate: Predicate): Option[JsonNode] = predicate.name() match {
    case "AND" | "OR" | "NOT" =>
      all(predicate.children().toSeq.map {
        case child: Predicate => condition(child)
        case _                => None
      }).map(call(predicate.name().toLowerCase(java.util.Locale.ROOT), _))
    case name if Conditions.contains(name) =>
      all(predicate.children().toSeq.map(value(_).map(_.term))).map(call(Conditions(name), _))
    case _ => None
  }

  /** A value; None if it cannot be translated. */
  def value(expression: Expression): Option[Value] = expression match {
    case reference: NamedReference if reference.fieldNames().length == 1 =>
      columns.get(reference.fieldNames()(0)).map { field =>
        val name = Messages.text(field.name)
        Value(Messages.message("name" -> Messages.text("column"), "column" -> name), field.dataType)
      }
    case literal: Literal[_] => Expressions.literal(literal.value(), literal.dataType())
    case cast: Cast =>
      value(cast.expression()).collect {
        case child if keepsValues(child.dataType, cast.dataType()) =>
          child.copy(dataType = cast.dataType())
      }
    case operation: GeneralScalarExpression if operation.children().length == 2 =>
      for {
        left <- value(operation.children()(0))
        right <- value(operation.children()(1))
        dataType <- arithmetic(operation.name(), left.dataType, right.dataType)
      } yield Value(call(operation.name(), Seq(left.term, right.term)), dataType)
    case _ => None
  }
}

private[spark] object Expressions {

  /** An expression of the API with its Spark type. */
  final case class Value(term: JsonNode, dataType: DataType)

  private val Conditions = Map(
    "=" -> "=",
    "<>" -> "<>",
    "<=>" -> "<=>",
    "<" -> "<",
    "<=" -> "<=",
    ">" -> ">",
    ">=" -> ">=",
    "IN" -> "in",
    "IS_NULL" -> "is null",
    "IS_NOT_NULL" -> "is not null",
    "STARTS_WITH" -> "starts with",
    "ENDS_WITH" -> "ends with",
    "CONTAINS" -> "contains"
  )
  private val Digits: Map[DataType, Int] =
    Map(ByteType -> 3, ShortType -> 5, IntegerType -> 10, LongType -> 19)
  private val Kinds: Map[DataType, String] = Map(
    BooleanType -> "bool",
    FloatType -> "float",
    DoubleType -> "double",
    StringType -> "string",
    BinaryType -> "binary",
    DateType -> "date",
    TimestampType -> "timestamp",
    TimestampNTZType -> "timestamp_ntz"
  )
  private val MinScale = 6

  /** All values, or None if one is missing. */
  def all[T](options: Seq[Option[T]]): Option[Seq[T]] =
    Option.when(options.forall(_.isDefined))(options.flatten)

  def call(name: String, arguments: Seq[JsonNode]): JsonNode =
    Messages.message("name" -> Messages.text(name), "arguments" -> Messages.list(arguments))

  private def literal(value: Any, dataType: DataType): Option[Value] = {
    val kind = (value, dataType) match {
      case (null, _)                      => Some("null")
      case (_, number) if isWhole(number) => Some("int")
      case (_: Decimal, _: DecimalType)   => Some("decimal")
      case (_, _: DayTimeIntervalType)    => Some("duration")
      case _                              => Kinds.get(dataType)
    }
    kind.map { name =>
      val (field, text) = value match {
        case null               => ("text", "")
        case bytes: Array[Byte] => ("bytes", Base64.getEncoder.encodeToString(bytes))
        case decimal: Decimal   => ("text", decimal.toJavaBigDecimal.toPlainString)
        case other              => ("text", other.toString)
      }
      val message = Messages.message("type" -> Messages.text(name), field -> Messages.text(text))
      Value(Messages.message("name" -> Messages.text("literal"), "literal" -> message), dataType)
    }
  }

  def isWhole(dataType: DataType): Boolean = Digits.contains(dataType)

  /** Whether every value of a type is the same value in another. */
  private def keepsValues(from: DataType, to: DataType): Boolean = (from, to) match {
    case _ if from == to => true
    case _ if isWhole(from) && isWhole(to) => Digits(from) <= Digits(to)
    case (_, decimal: DecimalType) if isWhole(from) =>
      decimal.precision - decimal.scale >= Digits(from)
    case (narrow: DecimalType, wide: DecimalType) =>
      wide.scale >= narrow.scale && wide.precision - wide.scale >= narrow.precision - narrow.scale
    case _ => false
  }

  /** Spark's type of a sum, difference or product of decimals; none where Spark would round it. */
  private def arithmetic(name: String, left: DataType, right: DataType): Option[DataType] =
    (left, right) match {
      case (a: DecimalType, b: DecimalType) =>
        name match {
          case "+" | "-" =>
            val scale = math.max(a.scale, b.scale)
            exact(math.max(a.precision - a.scale, b.precision - b.scale) + scale + 1, scale)
          case "*" => exact(a.precision + b.precision + 1, a.scale + b.scale)
          case _   => None
        }
      case _ => None
    }

  private def exact(precision: Int, scale: Int): Option[DecimalType] = {
    val most = DecimalType.MAX_PRECISION
    if (precision <= most) Some(DecimalType(precision, scale))
    else {
      val kept = math.max(most - (precision - scale), math.min(scale, MinScale))
      Option.when(kept == scale)(DecimalType(most, scale))
    }
  }
}
