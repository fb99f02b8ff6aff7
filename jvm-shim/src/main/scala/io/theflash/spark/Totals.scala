package io.theflash.spark

import java.util.concurrent.{ExecutionException, Executors}

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{CheckOverflowInSum, Literal, UnsafeProjection}
import org.apache.spark.sql.catalyst.util.TypeUtils
import org.apache.spark.sql.connector.metric.CustomTaskMetric
import org.apache.spark.sql.connector.read.{InputPartition, PartitionReader, PartitionReaderFactory}
import org.apache.spark.sql.types.{DataType, Decimal, DecimalType, DoubleType, LongType, StructType}

/** An aggregation without groups in one task, which reads all partitions concurrently and combines
  * their few rows. Sending them to another stage takes Spark longer.
  */
private[spark] final case class TotalPartition(parts: Seq[SplitPartition]) extends InputPartition {
  override def toString: String = parts.mkString("; ")
}

/** @param isAnsi whether an overflow of a sum is an error and not NULL */
private[spark] final case class TotalFactory(
    schema: StructType,
    functions: Seq[String],
    isAnsi: Boolean
) extends PartitionReaderFactory {
  override def createReader(partition: InputPartition): PartitionReader[InternalRow] =
    new TotalReader(partition.asInstanceOf[TotalPartition].parts, this)
}

private[spark] final class TotalReader(parts: Seq[SplitPartition], factory: TotalFactory)
    extends PartitionReader[InternalRow] {
  private val readers = parts.map(new AggregatesReader(_, factory.schema, factory.functions))
  private var total: Option[InternalRow] = None

  override def next(): Boolean = {
    val isFirst = total.isEmpty
    if (isFirst) total = Some(added(rows()))
    isFirst
  }

  override def get(): InternalRow = total.get

  /** The readers are closed by the threads that read them. */
  override def close(): Unit = ()

  override def currentMetricsValues(): Array[CustomTaskMetric] =
    readers.flatMap(_.currentMetricsValues()).groupMapReduce(_.name())(_.value())(_ + _).map {
      case (name, value) => TaskMetric(name, value): CustomTaskMetric
    }.toArray

  private def rows(): Seq[InternalRow] = {
    // The threads are interrupted, and so end, when the task is killed.
    val pool = Executors.newFixedThreadPool(
      readers.length,
      (body: Runnable) => {
        val thread = new Thread(body, "theflash-total")
        thread.setDaemon(true)
        thread
      }
    )
    try {
      val running = readers.map { reader =>
        val kept = UnsafeProjection.create(factory.schema)
        pool.submit(() => RowsReader.all(reader, kept))
      }
      running.flatMap(_.get())
    } catch {
      case error: ExecutionException => throw error.getCause
    } finally { val _ = pool.shutdownNow() }
  }

  private def added(rows: Seq[InternalRow]): InternalRow =
    InternalRow.fromSeq(factory.schema.zip(factory.functions).zipWithIndex.map {
      case ((field, function), n) =>
        val present = rows.filterNot(_.isNullAt(n)).map(_.get(n, field.dataType))
        if (present.isEmpty) null else added(present, function, field.dataType)
    })

  /** Combines the values of all parts. */
  private def added(values: Seq[Any], function: String, dataType: DataType): Any =
    (function, dataType) match {
      case ("min", _)                => values.min(TypeUtils.getInterpretedOrdering(dataType))
      case ("max", _)                => values.max(TypeUtils.getInterpretedOrdering(dataType))
      case (_, decimal: DecimalType) => sum(values.map(_.asInstanceOf[Decimal]), decimal)
      case (_, LongType)             => values.map(_.asInstanceOf[Long]).sum
      case (_, _)                    => values.map(_.asInstanceOf[Double]).sum
    }

  private def sum(values: Seq[Decimal], dataType: DecimalType): Any = {
    val total = values.map(_.toJavaBigDecimal).reduce(_.add(_))
    if (total.abs().compareTo(AggregatesReader.most(dataType)) <= 0)
      Decimal(total, dataType.precision, dataType.scale)
    else CheckOverflowInSum(Literal(null, dataType), dataType, !factory.isAnsi, null).eval()
  }
}

private[spark] object Totals {

  /** Type of the sum of such values; None if the sum is left to Spark. */
  def summed(dataType: DataType): Option[DataType] = dataType match {
    case LongType                           => None
    case _ if Expressions.isWhole(dataType) => Some(LongType)
    case decimal: DecimalType =>
      val digits = math.min(decimal.precision + MoreDigits, DecimalType.MAX_PRECISION)
      Some(DecimalType(digits, decimal.scale))
    case _ => Some(DoubleType)
  }

  /** Digits that Spark adds to the type of a sum of decimals. */
  private val MoreDigits = 10
}
