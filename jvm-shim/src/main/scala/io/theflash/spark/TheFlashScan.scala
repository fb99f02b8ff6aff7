package io.theflash.spark

import java.lang.ref.Cleaner
import java.util.OptionalLong

import scala.collection.mutable
import scala.util.control.NonFatal

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection
import org.apache.spark.sql.connector.metric.{CustomMetric, CustomTaskMetric}
import org.apache.spark.sql.connector.read._
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types.StructType

/** A latch of the store that keeps a timestamp readable while this object is referenced. It ends
  * with this process, or when nothing has been read through it for its time to live.
  */
private[spark] final class Snapshot private (val handle: String)

private[spark] object Snapshot {
  private val cleaner = Cleaner.create()

  def take(client: Client, snapshotTs: String): Snapshot = {
    val response = client.call(
      "TakeSnapshot",
      Messages.message("snapshotTs" -> Messages.text(snapshotTs))
    )
    val taken = new Snapshot(response.path("handle").asText())
    val _ = cleaner.register(taken, new Release(client, taken.handle))
    taken
  }

  /** Releases a snapshot without starting an engine process that has ended. */
  private final class Release(client: Client, handle: String) extends Runnable {
    override def run(): Unit =
      try if (client.isConnected) {
        val request = Messages.message("handle" -> Messages.text(handle))
        val _ = client.call("ReleaseSnapshot", request)
      } catch { case NonFatal(_) => } // the latch ends by itself
  }
}

/** Planner of the requests of one read, all with one snapshot. */
private[spark] final class Planner(val settings: Settings, val reading: Reading) {
  private lazy val snapshot = Snapshot.take(settings.client, reading.snapshotTs)
  private var last: Option[(JsonNode, Plan)] = None

  /** Plans the request of `reading` with these fields replaced. */
  def plan(fields: Seq[(String, JsonNode)]): Plan = {
    val wanted = request(fields, Messages.message("handle" -> Messages.text(snapshot.handle)))
    last match {
      case Some((request, plan)) if request == wanted => plan
      case _ =>
        val made = Plan.of(settings.client.call("PlanScan", wanted))
        last = Some((wanted, made))
        made
    }
  }

  /** Raises like `plan`, in less time. */
  def check(fields: Seq[(String, JsonNode)]): Unit = {
    val withoutSplits = fields :+ ("noSplits" -> Messages.flag(true))
    val handle = Messages.message("handle" -> Messages.text(snapshot.handle))
    val _ = settings.client.call("PlanScan", request(withoutSplits, handle))
  }

  /** The same request by timestamp, independent of the snapshot. */
  def lasting(fields: Seq[(String, JsonNode)]): ObjectNode =
    request(fields, Messages.message("snapshotTs" -> Messages.text(reading.snapshotTs)))

  private def request(fields: Seq[(String, JsonNode)], moment: JsonNode): ObjectNode = {
    val made = reading.request.deepCopy()
    made.set[JsonNode]("moment", moment)
    fields.foreach { case (name, value) => made.set[JsonNode](name, value) }
    made
  }
}

/** Definition of a scan, and its description for `explain`.
  *
  * @param functions aggregate functions of the last columns
  * @param isTotal whether the partial aggregates are combined into a single row
  */
private[spark] final case class ScanSpec(
    schema: StructType,
    fields: Seq[(String, JsonNode)],
    functions: Option[Seq[String]],
    shown: Seq[String],
    isTotal: Boolean = false
)

private[spark] object ScanSpec {

  /** The fields of a PlanRequest for the columns of `schema`. */
  def columns(schema: StructType): Seq[(String, JsonNode)] =
    if (schema.isEmpty) Seq("columns" -> Messages.list(Nil), "noColumns" -> Messages.flag(true))
    else Seq("columns" -> Messages.list(schema.fieldNames.map(Messages.text)))
}

/** A scan chosen by Spark. It is planned when it runs or when its statistics are requested, and
  * holds its snapshot while Spark references it.
  */
private[spark] class TheFlashScan(planner: Planner, spec: ScanSpec)
    extends Scan
    with Batch
    with SupportsReportStatistics {
  private val request = planner.lasting(spec.fields)
  private lazy val plan = Errors.planning(planner.plan(spec.fields))
  private val factory = ReaderFactory(spec.schema, spec.functions)
  private val isAnsi = SQLConf.get.ansiEnabled

  override def readSchema(): StructType = spec.schema

  override def description(): String = {
    val what = s"theflash ${planner.reading.table} at ${planner.reading.snapshotTs}"
    (what +: spec.shown).mkString(", ")
  }

  override def toBatch: Batch = this

  override def columnarSupportMode(): Scan.ColumnarSupportMode =
    if (spec.isTotal) Scan.ColumnarSupportMode.UNSUPPORTED
    else Scan.ColumnarSupportMode.SUPPORTED

  override def planInputPartitions(): Array[InputPartition] = {
    val slots = SparkSession.active.sparkContext.defaultParallelism
    val groups = SplitPartition.grouped(plan.splits, slots)
    // Aggregates without groups have one row also when there is no input.
    val isOne = spec.functions.exists(_.length == spec.schema.length)
    val needed = if (groups.isEmpty && isOne) Seq(Seq.empty[Split]) else groups
    val parts = needed.map(partition(_, regions))
    if (spec.isTotal) Array(TotalPartition(parts)) else parts.toArray
  }

  private def regions: Map[String, Set[String]] =
    plan.splits.groupMap(_.physicalId)(_.regionId).map { case (id, ids) => id -> ids.toSet }

  override def createReaderFactory(): PartitionReaderFactory =
    if (spec.isTotal) TotalFactory(spec.schema, spec.functions.get, isAnsi) else factory

  /** Reads at least `wanted` first rows, or all if there are fewer. */
  def firstRows(wanted: Int): Array[InternalRow] = {
    val first = mutable.ArrayBuffer.empty[InternalRow]
    val left = plan.splits.sortBy(-_.versions).iterator
    // A stream that is not read to its end closes its connection, so read all.
    while (first.length < wanted && left.hasNext) first ++= rows(Seq(left.next()))
    first.toArray
  }

  /** The single row of counts, summed in the driver. */
  def counts(): Array[InternalRow] = {
    val parts = rows(plan.splits)
    Array(InternalRow.fromSeq(spec.schema.indices.map(n => parts.map(_.getLong(n)).sum)))
  }

  private def rows(splits: Seq[Split]): Seq[InternalRow] = {
    val reader = factory.createColumnarReader(partition(splits, regions))
    RowsReader.all(reader, UnsafeProjection.create(spec.schema))
  }

  /** Metadata tables have unknown statistics, so that Spark does not treat them as small. */
  override def estimateStatistics(): Statistics = {
    def orUnknown(count: Long) =
      if (count > 0 || plan.splits.isEmpty) OptionalLong.of(count) else OptionalLong.empty()
    new Statistics {
      override def numRows(): OptionalLong =
        if (spec.isTotal) OptionalLong.of(1L) else orUnknown(plan.splits.map(_.versions).sum)
      override def sizeInBytes(): OptionalLong =
        if (spec.isTotal) OptionalLong.of(spec.schema.defaultSize.toLong)
        else orUnknown(plan.splits.map(_.sizeBytes).sum)
    }
  }

  override def supportedCustomMetrics(): Array[CustomMetric] = SplitsMetric.All

  override def reportDriverMetrics(): Array[CustomTaskMetric] =
    Array(TaskMetric(SplitsMetric.Name, plan.splits.length.toLong))

  /** Scans of the same rows are equal, so that Spark reads them once. */
  override def equals(other: Any): Boolean = other match {
    case that: TheFlashScan => key == that.key
    case _                  => false
  }

  override def hashCode(): Int = key.hashCode()

  private def key: (Place, ObjectNode, StructType, Boolean) =
    (planner.settings.place, request, spec.schema, spec.isTotal)

  private def partition(splits: Seq[Split], regions: Map[String, Set[String]]): SplitPartition =
    SplitPartition(
      planner.settings.place,
      splits,
      request.toString,
      planner.reading.snapshotTs,
      plan.latchId,
      regions
    )
}

/** Scan builder that only selects columns; the rest is left to Spark. */
private[spark] class TheFlashScanBuilder(
    settings: Settings,
    reading: Reading,
    columns: Seq[TableColumn]
) extends SupportsPushDownRequiredColumns {
  protected val planner = new Planner(settings, reading)
  protected var required: StructType = StructType(columns.map(_.field))

  override def pruneColumns(requiredSchema: StructType): Unit = {
    val byName = columns.map(column => column.field.name -> column.field).toMap
    required = StructType(requiredSchema.map(field => byName(field.name)))
  }

  override def build(): Scan = new TheFlashScan(planner, spec)

  protected def spec: ScanSpec =
    ScanSpec(required, ScanSpec.columns(required), None, Nil)
}
