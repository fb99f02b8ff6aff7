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

/** What Spark carries to an executor: splits, and how to plan them anew, as JSON.
  *
  * `regions` are all that the plan has of each physical table, the splits' own among them. Without
  * a split it is the one row of aggregates over nothing.
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

  /** So many row versions are worth a task of their own; a region alone is less. */
  private val TaskVersions = 1L << 22

  /** A request has no more than so many characters of tickets. */
  private val TicketChars = 1 << 20

  /** Splits in the order given, as many at a time as a request has room for. */
  def asked(splits: Seq[Split]): Iterator[Seq[Split]] = {
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

  /** Which splits are read by one task: about equally much each, and enough for every slot. */
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

/** @param functions of aggregates, which the last columns are the parts of */
private[spark] final case class ReaderFactory(schema: StructType, functions: Option[Seq[String]])
    extends PartitionReaderFactory {

  override def supportColumnarReads(partition: InputPartition): Boolean = true

  override def createColumnarReader(partition: InputPartition): PartitionReader[ColumnarBatch] = {
    val found = partition.asInstanceOf[SplitPartition]
    functions match {
      case None        => new RowsReader(found, schema)
      case Some(names) => new AggregatesReader(found, schema, names)
    }
  }

  override def createReader(partition: InputPartition): Nothing =
    throw new UnsupportedOperationException("theflash reads columns")
}

/** The batches of a partition's splits, which are asked for some at a time. */
private[spark] class RowsReader(partition: SplitPartition, schema: StructType)
    extends PartitionReader[ColumnarBatch] {
  private val left = SplitPartition.asked(partition.splits)
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
    var found = if (rows == null) None else rows.next()
    while (found.isEmpty && left.hasNext) {
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
      found = first
    }
    found
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

  /** All that a reader has, copied; closes it. */
  def all(reader: PartitionReader[ColumnarBatch], kept: UnsafeProjection): Seq[InternalRow] =
    try {
      val found = mutable.ArrayBuffer.empty[InternalRow]
      while (reader.next()) found ++= reader.get().rowIterator().asScala.map(kept(_).copy())
      found.toSeq
    } finally reader.close()
}

/** A plan's latch ends when nothing has been read for a while; Spark keeps plans for longer.
  *
  * A plan of today at the same timestamp has the same rows, in other files.
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
      // Regions that have changed: splits of both plans do not mix.
      if (now.map(_.regionId).toSet != partition.regions(split.physicalId)) throw error
      now.find(_.regionId == split.regionId).fold(throw error)(_.ticket)
    }
  }
}

private[spark] final case class TaskMetric(name: String, value: Long) extends CustomTaskMetric

/** Spark makes these by their class's name. */
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
