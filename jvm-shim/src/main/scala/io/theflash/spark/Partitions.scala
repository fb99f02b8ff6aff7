package io.theflash.spark

import scala.collection.mutable
import scala.jdk.CollectionConverters._

import org.apache.arrow.vector.VectorSchemaRoot
import org.apache.arrow.vector.dictionary.DictionaryProvider
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection
import org.apache.spark.sql.connector.metric.{CustomMetric, CustomSumMetric, CustomTaskMetric}
import org.apache.spark.sql.connector.read.{InputPartition, PartitionReader, PartitionReaderFactory}
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}

/** Task input that Spark sends to an executor: splits, and the request to plan them again, as JSON.
  *
  * `regions` are all regions of the plan by physical table, including those of the splits. A
  * partition without splits has the one row of aggregates without input.
  */
private[spark] final case class SplitPartition(
    place: Place,
    splits: Seq[Split],
    request: String,
    snapshotTs: String,
    latchId: String,
    regions: Map[String, Set[String]]
) extends InputPartition {
  override def toString: String =
    s"regions ${splits.map(_.regionId).mkString(", ")} at $snapshotTs"
}

private[spark] object SplitPartition {

  /** Number of row versions for a task; a single region has fewer. */
  private val TaskVersions = 1L << 22

  /** Largest number of characters of tickets in a request. */
  private val TicketChars = 1 << 20

  /** Groups splits, in order, into requests of limited size. */
  def grouped(splits: Seq[Split]): Iterator[Seq[Split]] = {
    val groups = mutable.ArrayBuffer.empty[Vector[Split]]
    var room = 0
    splits.foreach { split =>
      if (groups.isEmpty || room < split.ticket.length) {
        groups += Vector.empty
        room = TicketChars
      }
      groups(groups.length - 1) :+= split
      room -= split.ticket.length
    }
    groups.iterator
  }

  /** Groups splits into tasks of about equal size, with at least one for each slot if possible. */
  def grouped(splits: Seq[Split], slots: Int): Seq[Seq[Split]] = {
    val wanted = math.max(splits.map(_.versions).sum / TaskVersions, slots.toLong)
    val groups = Array.fill(math.min(wanted, splits.length.toLong).toInt)(Vector.empty[Split])
    val weights = new Array[Long](groups.length)
    splits.sortBy(-_.versions).foreach { split =>
      val lightest = weights.indices.minBy(weights(_))
      groups(lightest) :+= split
      weights(lightest) += split.versions
    }
    groups.toSeq
  }
}

/** @param functions aggregate functions of the last columns */
private[spark] final case class ReaderFactory(schema: StructType, functions: Option[Seq[String]])
    extends PartitionReaderFactory {

  override def supportColumnarReads(partition: InputPartition): Boolean = true

  override def createColumnarReader(partition: InputPartition): PartitionReader[ColumnarBatch] = {
    val splits = partition.asInstanceOf[SplitPartition]
    functions match {
      case None        => new RowsReader(splits, schema)
      case Some(names) => new AggregatesReader(splits, schema, names)
    }
  }

  override def createReader(partition: InputPartition): Nothing =
    throw new UnsupportedOperationException("theflash reads columns")
}

/** Reader of the batches of a partition's splits, which it requests in groups. */
private[spark] class RowsReader(partition: SplitPartition, schema: StructType)
    extends PartitionReader[ColumnarBatch] {
  private val left = SplitPartition.grouped(partition.splits)
  private var rows: Rows = _
  private var rowCount = 0L
  private var doneBytes = 0L
  private var batch: ColumnarBatch = _

  override def next(): Boolean = nextBatch() match {
    case Some(root) =>
      count(root.getRowCount)
      batch = new ColumnarBatch(columns(root), root.getRowCount)
      true
    case None => false
  }

  override def get(): ColumnarBatch = batch

  override def close(): Unit = if (rows != null) rows.close()

  override def currentMetricsValues(): Array[CustomTaskMetric] =
    Array(
      TaskMetric(RowsMetric.Name, rowCount),
      TaskMetric(BytesMetric.Name, doneBytes + (if (rows == null) 0L else rows.sizeBytes))
    )

  protected def count(rows: Int): Unit = rowCount += rows.toLong

  protected def dictionaries: DictionaryProvider = rows.dictionaries

  protected def nextBatch(): Option[VectorSchemaRoot] = {
    var next = if (rows == null) None else rows.next()
    while (next.isEmpty && left.hasNext) {
      if (rows != null) {
        doneBytes += rows.sizeBytes
        rows.close()
      }
      val splits = left.next()
      val client = Client.of(partition.place)
      val (made, first) = Rows.begun(client, splits.map(_.ticket)) { error =>
        Replanning.tickets(client, partition, splits, error)
      }
      rows = made
      next = first
    }
    next
  }

  private def columns(root: VectorSchemaRoot): Array[ColumnVector] = {
    val vectors = Rows.vectors(root)
    if (vectors.length != schema.length)
      throw Errors.protocol(
        partition.toString,
        s"${vectors.length} columns where ${schema.length} should be"
      )
    vectors
      .zip(schema)
      .map { case (vector, field) =>
        Vectors.column(vector, field.dataType, field.nullable, field.name, dictionaries)
      }
      .toArray
  }
}

private[spark] object RowsReader {

  /** Copies all rows of a reader and closes it. */
  def all(reader: PartitionReader[ColumnarBatch], kept: UnsafeProjection): Seq[InternalRow] =
    try {
      val rows = mutable.ArrayBuffer.empty[InternalRow]
      while (reader.next()) rows ++= reader.get().rowIterator().asScala.map(kept(_).copy())
      rows.toSeq
    } finally reader.close()
}

/** Plans a scan again after its latch has expired; Spark retains plans for longer than latches.
  *
  * A new plan at the same timestamp has the same rows, possibly in other files.
  */
private[spark] object Replanning {
  def tickets(
      client: Client,
      partition: SplitPartition,
      splits: Seq[Split],
      error: TheFlashException
  ): Seq[String] = {
    val request = Connection.Mapper.readTree(partition.request)
    val planned = Plan.of(client.call("PlanScan", request)).splits
    splits.map { split =>
      val now = planned.filter(_.physicalId == split.physicalId)
      // The regions have changed, so splits of both plans cannot be combined.
      if (now.map(_.regionId).toSet != partition.regions(split.physicalId)) throw error
      now.find(_.regionId == split.regionId).fold(throw error)(_.ticket)
    }
  }
}

private[spark] final case class TaskMetric(name: String, value: Long) extends CustomTaskMetric

/** Spark instantiates metrics by class name. */
final class RowsMetric extends CustomSumMetric {
  override def name(): String = RowsMetric.Name
  override def description(): String = "rows sent by theflash"
}

object RowsMetric { val Name = "theflashRows" }

final class BytesMetric extends CustomSumMetric {
  override def name(): String = BytesMetric.Name
  override def description(): String = "bytes sent by theflash"
}

object BytesMetric { val Name = "theflashBytes" }

final class SplitsMetric extends CustomSumMetric {
  override def name(): String = SplitsMetric.Name
  override def description(): String = "regions planned by theflash"
}

object SplitsMetric {
  val Name = "theflashRegions"
  val All: Array[CustomMetric] = Array(new RowsMetric, new BytesMetric, new SplitsMetric)
}
