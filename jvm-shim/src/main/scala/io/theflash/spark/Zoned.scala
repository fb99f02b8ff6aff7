package io.theflash.spark

import java.time.{ZoneId, ZoneOffset}
import java.util.Locale

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.codegen.{CodegenContext, ExprCode}
import org.apache.spark.sql.catalyst.expressions.objects.StaticInvoke
import org.apache.spark.sql.catalyst.util.DateTimeUtils
import org.apache.spark.sql.connector.catalog.functions.ScalarFunction
import org.apache.spark.sql.types._

/** A function of a timestamp in a time zone, in a form that Spark passes to sources.
  *
  * Spark does not translate `date_trunc`, and omits the time zone of hours and casts to dates,
  * which may differ from the session's. `original` is therefore wrapped in a call of a function
  * that Spark translates, whose name encodes function and zone. Evaluating the call evaluates
  * `original`.
  */
private[spark] final class Zoned(function: ZonedFunction, val original: Expression)
    extends StaticInvoke(
      classOf[Zoned],
      original.dataType,
      "zoned",
      original.children,
      Nil,
      false,
      original.nullable,
      true,
      Some(function)
    ) {
  override def nullable: Boolean = original.nullable

  override def eval(input: InternalRow): Any = original.eval(input)

  override def doGenCode(ctx: CodegenContext, ev: ExprCode): ExprCode = {
    val made = original.genCode(ctx)
    ev.copy(code = made.code, isNull = made.isNull, value = made.value)
  }

  override def withNewChildrenInternal(newChildren: IndexedSeq[Expression]): Expression =
    new Zoned(function, original.withNewChildren(newChildren))

  override def toString: String = original.toString
}

private[spark] object Zoned {

  /** The function, unit and offset that are encoded in a function name. */
  final case class ZonedCall(name: String, unit: String, offsetUs: Long)

  val Days: Set[String] = Set("week", "month", "quarter", "year")
  private val Prefix = "theflash"
  private val SecondUs = 1000000L
  private val Units = Map(
    "mon" -> "month",
    "mm" -> "month",
    "yyyy" -> "year",
    "yy" -> "year",
    "dd" -> "day"
  )
  private val Supported =
    Days ++ Set("microsecond", "millisecond", "second", "minute", "hour", "day")

  /** Wraps an expression in a translatable call if its zone has a constant offset. */
  def of(expression: Expression): Option[Expression] = expression match {
    case TruncTimestamp(Literal(format, _: StringType), _, Some(zone)) =>
      unit(format).flatMap(made(expression, "date_trunc", _, zone))
    case Cast(child, DateType, zone, _) if isTime(child) =>
      made(expression, "date", "", zone.getOrElse("UTC"))
    case Cast(child, TimestampType, Some(zone), _) if child.dataType == TimestampNTZType =>
      made(expression, "instant", "", zone)
    case Hour(child, zone) if isTime(child)   => made(expression, "hour", "", zone.getOrElse("UTC"))
    case Minute(child, zone) if isTime(child) =>
      made(expression, "minute", "", zone.getOrElse("UTC"))
    case Second(child, zone) if isTime(child) =>
      made(expression, "second", "", zone.getOrElse("UTC"))
    case _ => None
  }

  def decoded(canonicalName: String): Option[ZonedCall] = canonicalName.split(":", -1) match {
    case Array(Prefix, name, unit, offset) => Some(ZonedCall(name, unit, offset.toLong))
    case _                                 => None
  }

  /** Normalizes a unit of `date_trunc` to the name that the store uses. */
  def unit(format: Any): Option[String] = Option(format).map { text =>
    val name = text.toString.toLowerCase(Locale.ROOT)
    Units.getOrElse(name, name)
  }.filter(Supported.contains)

  private def isTime(child: Expression): Boolean =
    child.dataType == TimestampType || child.dataType == TimestampNTZType

  private def made(
      original: Expression,
      name: String,
      unit: String,
      zone: String
  ): Option[Expression] =
    DateTimeUtils.getZoneId(zone).normalized() match {
      case offset: ZoneOffset =>
        val canonical = s"$Prefix:$name:$unit:${offset.getTotalSeconds * SecondUs}"
        Some(new Zoned(ZonedFunction(canonical, original.dataType), original))
      case _: ZoneId => None
    }
}

private[spark] final case class ZonedFunction(override val canonicalName: String, resultType: DataType)
    extends ScalarFunction[Any] {
  override def inputTypes(): Array[DataType] = Array.empty

  override def name(): String = canonicalName
}
