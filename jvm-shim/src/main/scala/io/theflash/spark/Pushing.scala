package io.theflash.spark

import scala.collection.mutable

import com.fasterxml.jackson.databind.JsonNode
import org.apache.arrow.vector.types.pojo.{ArrowType, Field}
import org.apache.spark.sql.connector.expressions.aggregate._
import org.apache.spark.sql.connector.expressions.filter.Predicate
import org.apache.spark.sql.connector.expressions.{
  Expression,
  Literal,
  NamedReference,
  NullOrdering,
  SortDirection,
  SortOrder
}
import org.apache.spark.sql.connector.read._
import org.apache.spark.sql.types._

/** Scan builder that pushes down filters, partial aggregates, limits and orders.
  *
  * The store decides about each: PlanScan rejects operations whose result might differ from
  * Spark's, and Spark then executes them.
  */
private[spark] final class PushingScanBuilder(
    settings: Settings,
    reading: Reading,
    columns: Seq[TableColumn]
) extends TheFlashScanBuilder(settings, reading, columns)
    with SupportsPushDownV2Filters
    with SupportsPushDownAggregates
    with SupportsPushDownLimit
    with SupportsPushDownTopN {
  private val fields = columns.map(column => column.field.name -> column.field).toMap
  private val expressions = new Expressions(fields)
  private val computed = new Computed(expressions)
  private val shown = mutable.ArrayBuffer.empty[String]
  private var pushed = Array.empty[Predicate]
  private var accepted = Seq.empty[JsonNode]
  private var filter = Seq.empty[(String, JsonNode)]
  private var aggregation: Option[PushedAggregation] = None
  private var first = Seq.empty[(String, JsonNode)]
  private var averagesLongs = false
  private var hasAverage = false
  private var isCounted = false
  private var isTotal = false
  private var fewRows = 0

  override def pushPredicates(predicates: Array[Predicate]): Array[Predicate] = {
    val translated = predicates.toSeq.flatMap(each => expressions.condition(each).map(each -> _))
    val accepted =
      if (translated.isEmpty || filters(translated.map(_._2))) translated
      else translated.filter { case (_, condition) => filters(Seq(condition)) }
    pushed = accepted.map(_._1).toArray
    this.accepted = accepted.map(_._2)
    filter = filtered(this.accepted)
    if (pushed.nonEmpty) shown += pushed.mkString("PushedFilters: [", ", ", "]")
    predicates.filterNot(pushed.contains)
  }

  override def pushedPredicates(): Array[Predicate] = pushed

  /** True without groups: the driver or one task combines the single row. Otherwise Spark combines
    * the partial aggregates of the regions.
    *
    * Spark calls this before it replaces AVG by SUM and COUNT, and again afterwards, when the AVG
    * is no longer visible. For longs, that sum differs from Spark's own, which adds doubles and
    * does not overflow.
    */
  override def supportCompletePushDown(wanted: Aggregation): Boolean = {
    val averages = wanted.aggregateExpressions().collect { case average: Avg => average.column() }
    hasAverage ||= averages.nonEmpty
    averagesLongs ||= averages.exists(!computed.summand(_).exists(_.dataType != LongType))
    isTotal = !hasAverage && aggregationOf(wanted).exists { each =>
      each.totals.isDefined && accepts(filter ++ each.fields, each.fits)
    }
    isCounted = isTotal && filter.isEmpty &&
      wanted.aggregateExpressions().forall(_.isInstanceOf[CountStar]) &&
      aggregationOf(wanted).exists(each => accepts(each.fields, each.isCheap))
    isTotal
  }

  private def aggregationOf(wanted: Aggregation): Option[PushedAggregation] =
    if (averagesLongs) None else PushedAggregation.of(wanted, reading, computed)

  override def pushAggregation(wanted: Aggregation): Boolean = {
    val accepted = aggregationOf(wanted).filter(each => accepts(filter ++ each.fields, each.fits))
    aggregation = accepted
    accepted.foreach { each =>
      shown += wanted.aggregateExpressions().mkString("PushedAggregates: [", ", ", "]")
      if (each.groups > 0)
        shown += wanted.groupByExpressions().mkString("PushedGroupBy: [", ", ", "]")
    }
    accepted.isDefined
  }

  override def pushLimit(limit: Int): Boolean = {
    val fields = Seq("limit" -> Messages.number(limit.toLong))
    val isAccepted = limit > 0 && accepts(filter ++ fields)
    if (isAccepted) {
      first = fields
      // With a filter, all rows may have to be read.
      if (filter.isEmpty && limit <= DriverScan.RowsMax) fewRows = limit
      shown += s"PushedLimit: $limit"
    }
    isAccepted
  }

  override def pushTopN(orders: Array[SortOrder], limit: Int): Boolean = {
    val keys = Expressions.all(orders.toSeq.map(sortKey))
    val fields = keys.map { each =>
      Seq("limit" -> Messages.number(limit.toLong), "order" -> Messages.list(each))
    }
    val accepted = fields.filter(each => limit > 0 && accepts(filter ++ each))
    accepted.foreach { each =>
      first = each
      shown += s"PushedTopN: ${orders.mkString("[", ", ", "]")} LIMIT $limit"
    }
    accepted.isDefined
  }

  override def build(): Scan = {
    val scan = new TheFlashScan(planner, spec)
    val canJoin = aggregation.isEmpty && first.isEmpty && required.nonEmpty
    if (aggregation.isDefined && isCounted) new DriverScan(scan, 1, scan.counts())
    else if (aggregation.isEmpty && isOneRow)
      new DriverScan(scan, 1, scan.firstRows(Int.MaxValue))
    else if (aggregation.isEmpty && fewRows > 0)
      new DriverScan(scan, fewRows.toLong, scan.firstRows(fewRows))
    else if (canJoin) new JoinedScan(planner, spec, required.fieldNames.toSeq, narrowed)
    else scan
  }

  /** The scan of the rows for which these conditions are true, too; of those that the store accepts.
    */
  private def narrowed(predicates: Seq[Predicate]): Option[ScanSpec] = {
    val short = predicates.filter(_.children().length <= JoinedScan.ValuesMax + 1)
    val more = short.flatMap(expressions.condition(_)).filter(each => filters(Seq(each)))
    Option.when(more.nonEmpty) {
      val all = filtered(accepted ++ more)
      spec.copy(fields = ScanSpec.columns(required) ++ all)
    }
  }

  /** Whether the filters determine the key, so that each partition has one row at most. */
  private def isOneRow: Boolean = {
    val equal = pushed.toSeq.filter(_.name() == "=").map(_.children().toSeq).collect {
      case Seq(column: NamedReference, _: Literal[_]) => column.fieldNames().mkString(".")
      case Seq(_: Literal[_], column: NamedReference) => column.fieldNames().mkString(".")
    }
    val handle = reading.columns.filter(_.isInHandle).map(_.field.name)
    handle.nonEmpty && handle.forall(equal.contains)
  }

  /** Each region returns its first rows; Spark selects the first of all. */
  override def isPartiallyPushed(): Boolean = true

  override protected def spec: ScanSpec = aggregation match {
    case Some(pushed) =>
      val schema = if (isTotal) pushed.totals.get else pushed.schema
      ScanSpec(schema, filter ++ pushed.fields, Some(pushed.functions), shown.toSeq, isTotal)
    case None =>
      val fields = ScanSpec.columns(required) ++ filter ++ first
      ScanSpec(required, fields, None, shown.toSeq)
  }

  private def filtered(conditions: Seq[JsonNode]): Seq[(String, JsonNode)] = conditions match {
    case Seq()    => Nil
    case Seq(one) => Seq("filter" -> one)
    case several  => Seq("filter" -> Expressions.call("and", several))
  }

  /** Whether the store accepts this, and its answer has the expected form. */
  private def accepts(fields: Seq[(String, JsonNode)], fits: Plan => Boolean = _ => true): Boolean =
    isSupported(fits(planner.plan(fields)))

  /** Whether the store accepts these conditions; most plans contain other fields as well. */
  private def filters(conditions: Seq[JsonNode]): Boolean =
    isSupported { planner.check(filtered(conditions)); true }

  private def isSupported(request: => Boolean): Boolean = Errors.planning {
    try request
    catch { case error: TheFlashException if error.kind == Errors.Unsupported => false }
  }

  private def sortKey(order: SortOrder): Option[JsonNode] = order.expression() match {
    case column: NamedReference if column.fieldNames().length == 1 =>
      fields.get(column.fieldNames()(0)).map { field =>
        Messages.message(
          "column" -> Messages.text(field.name),
          "descending" -> Messages.flag(order.direction() == SortDirection.DESCENDING),
          "nullsFirst" -> Messages.flag(order.nullOrdering() == NullOrdering.NULLS_FIRST)
        )
      }
    case _ => None
  }
}

/** Partial aggregates that each region returns.
  *
  * @param schema the groups, then the partial aggregates, in the types in which Spark combines them
  * @param totals the types of the complete aggregates, if they have no groups and are combined here
  */
private[spark] final case class PushedAggregation(
    fields: Seq[(String, JsonNode)],
    schema: StructType,
    functions: Seq[String],
    totals: Option[StructType]
) {
  val groups: Int = schema.length - functions.length

  /** Whether a plan has few enough rows to count them during planning. */
  def isCheap(plan: Plan): Boolean =
    fits(plan) && plan.splits.map(_.versions).sum <= DriverScan.VersionsMax

  /** Whether the store's answer can be read as `schema`. */
  def fits(plan: Plan): Boolean =
    plan.fields.length == schema.length &&
      plan.fields.zip(schema).drop(groups).forall { case (field, part) =>
        PushedAggregation.isReadable(field, part.dataType)
      }
}

private[spark] object PushedAggregation {
  val Count = "count"
  val Sum = "sum"

  def of(
      wanted: Aggregation,
      reading: Reading,
      computed: Computed
  ): Option[PushedAggregation] =
    for {
      groups <- Expressions.all(wanted.groupByExpressions().toSeq.map(computed.value))
      if !isOneRowEach(wanted.groupByExpressions().toSeq, reading)
      parts <- Expressions.all(wanted.aggregateExpressions().toSeq.map(part(_, computed)))
    } yield {
      val aggregates = parts.map { part =>
        Messages.message(
          (Seq("function" -> Messages.text(part.function)) ++ part.argument.map("argument" -> _)): _*
        )
      }
      val aggregation = Messages.message(
        "keys" -> Messages.list(groups.map(_.term)),
        "aggregates" -> Messages.list(aggregates)
      )
      val keys = groups.zipWithIndex.map { case (key, n) => StructField(s"k$n", key.dataType) }
      val schema = keys ++ named(parts.map(_.dataType))
      val totals = parts.flatMap(_.total)
      val hasTotals = groups.isEmpty && totals.length == parts.length
      // The aggregation determines the columns to read.
      val fields = Seq("columns" -> Messages.list(Nil), "aggregation" -> aggregation)
      PushedAggregation(
        fields,
        StructType(schema),
        parts.map(_.function),
        Option.when(hasTotals)(StructType(named(totals)))
      )
    }

  private def named(dataTypes: Seq[DataType]): Seq[StructField] =
    dataTypes.zipWithIndex.map { case (dataType, n) => StructField(s"a$n", dataType) }

  /** @param dataType type of the partial value; `total`: of the combined one, if combined here */
  private final case class Part(
      function: String,
      argument: Option[JsonNode],
      dataType: DataType,
      total: Option[DataType]
  )

  private def isReadable(field: Field, wanted: DataType): Boolean = (field.getType, wanted) match {
    case (decimal: ArrowType.Decimal, to: DecimalType) => decimal.getScale <= to.scale
    case _                                             => true
  }

  /** Whether each row is a group of its own, so that grouping saves nothing. */
  private def isOneRowEach(groups: Seq[Expression], reading: Reading): Boolean = {
    val handle = reading.columns.filter(_.isInHandle).map(_.field.name)
    val names = groups.collect { case column: NamedReference => column.fieldNames().mkString(".") }
    handle.nonEmpty && handle.forall(names.contains)
  }

  private def part(function: AggregateFunc, computed: Computed): Option[Part] = {
    def of(name: String, argument: Expression, dataType: DataType => DataType) =
      computed.value(argument).map { value =>
        val resultType = dataType(value.dataType)
        Part(name, Option(value.term), resultType, Some(resultType))
      }
    function match {
      case _: CountStar                      => Some(Part(Count, None, LongType, Some(LongType)))
      case count: Count if !count.isDistinct => of(Count, count.column(), _ => LongType)
      case sum: Sum if !sum.isDistinct =>
        for {
          value <- computed.summand(sum.column())
          dataType <- summed(value.dataType)
        } yield Part(Sum, Option(value.term), dataType, Totals.summed(value.dataType))
      case min: Min => of("min", min.column(), identity)
      case max: Max => of("max", max.column(), identity)
      case _        => None
    }
  }

  /** The type in which Spark reads a partial sum: for decimals, the type of the summands. */
  private def summed(dataType: DataType): Option[DataType] = dataType match {
    case whole if Expressions.isWhole(whole) => Some(LongType)
    case decimal: DecimalType   => Some(decimal)
    case FloatType | DoubleType => Some(DoubleType)
    case _                      => None
  }
}
