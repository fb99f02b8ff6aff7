package io.theflash.spark

import java.math.{BigDecimal => JavaDecimal, BigInteger}

import scala.collection.mutable

import org.apache.arrow.vector.{Decimal256Vector, DecimalVector, FieldVector, VectorSchemaRoot}
import org.apache.spark.sql.types.{DataType, Decimal, DecimalType, LongType, StructType}
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarArray, ColumnarBatch, ColumnarMap}
import org.apache.spark.unsafe.types.UTF8String

/** Reader of the partial aggregates of a region, as rows that Spark combines.
  *
  * Spark reads a partial decimal sum in the type of the summands. A sum that exceeds this type
  * would be an error or NULL, so it is split over several rows, at most as many as it has summands.
  * The additional rows have a count of 0 and no minimum or maximum.
  */
private[spark] final class AggregatesReader(
    partition: SplitPartition,
    schema: StructType,
    functions: Seq[String]
) extends RowsReader(partition, schema) {
  private val groups = schema.length - functions.length
  private val sums = (groups until schema.length).filter { n =>
    val dataType = schema(n).dataType
    functions(n - groups) == PushedAggregation.Sum &&
    (dataType == LongType || dataType.isInstanceOf[DecimalType])
  }
  private val waiting = mutable.Queue.empty[ColumnarBatch]
  private var current: ColumnarBatch = _
  private var hasRows = false

  override def next(): Boolean = {
    while (waiting.isEmpty)
      nextBatch() match {
        case Some(root) => if (root.getRowCount > 0) add(root)
        case None =>
          // Aggregates without groups have one row also when there is no input.
          if (groups > 0 || hasRows) return false
          add(nothing, 1)
      }
    current = waiting.dequeue()
    count(current.numRows())
    true
  }

  override def get(): ColumnarBatch = current

  private def add(columns: Array[ColumnVector], rows: Int): Unit = {
    hasRows = true
    waiting.enqueue(new ColumnarBatch(columns, rows))
  }

  private def nothing: Array[ColumnVector] =
    schema.indices.map { n =>
      new Values(schema(n).dataType, Array(none(n))): ColumnVector
    }.toArray

  /** Value of an aggregate without rows. */
  private def none(column: Int): Any =
    if (functions(column - groups) == PushedAggregation.Count) 0L else null

  private def add(root: VectorSchemaRoot): Unit = {
    val vectors = Rows.vectors(root)
    if (vectors.length != schema.length)
      throw Errors.protocol(
        partition.toString,
        s"${vectors.length} columns where ${schema.length} should be"
      )
    val whole = sums.flatMap(n => Vectors.sums(vectors(n), schema(n).dataType).map(n -> _)).toMap
    val plain = whole ++ vectors.indices.filterNot(sums.contains).map { n =>
      val field = schema(n)
      n -> Vectors.column(vectors(n), field.dataType, nullable = true, field.name, dictionaries)
    }
    var left = sums.filterNot(whole.contains).map { n =>
      n -> parts(vectors(n), schema(n).dataType)
    }.toMap
    var rows: Array[Int] = Array.range(0, root.getRowCount)
    var isFirst = true
    while (rows.nonEmpty) {
      val columns = schema.indices.map { n =>
        val dataType = schema(n).dataType
        if (left.contains(n)) new Values(dataType, rows.map(row => head(left(n)(row), dataType)))
        else if (isFirst) plain(n)
        else if (n < groups) new Chosen(plain(n), rows)
        else new Values(dataType, Array.fill(rows.length)(none(n)))
      }
      add(columns.toArray, rows.length)
      left = left.map { case (n, values) => n -> values.map(rest(_, schema(n).dataType)) }
      rows = rows.filter(row => left.values.map(_(row)).exists(v => v != null && v.signum() != 0))
      isFirst = false
    }
  }

  private def parts(vector: FieldVector, dataType: DataType): Array[JavaDecimal] = {
    val scale = dataType match {
      case decimal: DecimalType => decimal.scale
      case _                    => 0
    }
    Array.tabulate(vector.getValueCount) { row =>
      val value = vector match {
        case decimals: DecimalVector    => decimals.getObject(row)
        case decimals: Decimal256Vector => decimals.getObject(row)
        case other =>
          throw Errors.protocol(partition.toString, s"a sum in ${other.getField.getType}")
      }
      if (value == null) null else value.setScale(scale)
    }
  }

  /** The part of a sum that fits its type. */
  private def head(value: JavaDecimal, dataType: DataType): Any =
    if (value == null) null
    else {
      val most = AggregatesReader.most(dataType)
      val fitting = value.max(most.negate()).min(most)
      dataType match {
        case decimal: DecimalType => Decimal(fitting, decimal.precision, decimal.scale)
        case _                    => fitting.longValueExact()
      }
    }

  private def rest(value: JavaDecimal, dataType: DataType): JavaDecimal =
    if (value == null) null
    else {
      val most = AggregatesReader.most(dataType)
      value.subtract(value.max(most.negate()).min(most))
    }

  /** A column of computed values. */
  private final class Values(dataType: DataType, values: Array[Any])
      extends ColumnVector(dataType) {
    override def close(): Unit = ()
    override def hasNull: Boolean = values.contains(null)
    override def numNulls: Int = values.count(_ == null)
    override def isNullAt(row: Int): Boolean = values(row) == null
    override def getLong(row: Int): Long = values(row).asInstanceOf[Long]
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal =
      values(row).asInstanceOf[Decimal]
    override def getBoolean(row: Int): Boolean = none()
    override def getByte(row: Int): Byte = none()
    override def getShort(row: Int): Short = none()
    override def getInt(row: Int): Int = none()
    override def getFloat(row: Int): Float = none()
    override def getDouble(row: Int): Double = none()
    override def getArray(row: Int): ColumnarArray = none()
    override def getMap(row: Int): ColumnarMap = none()
    override def getUTF8String(row: Int): UTF8String = none()
    override def getBinary(row: Int): Array[Byte] = none()
    override def getChild(ordinal: Int): ColumnVector = none()
    private def none(): Nothing = throw new UnsupportedOperationException("there are only nulls")
  }

  /** Rows of another column, selected by index. */
  private final class Chosen(from: ColumnVector, rows: Array[Int])
      extends ColumnVector(from.dataType()) {
    override def close(): Unit = ()
    override def hasNull: Boolean = rows.exists(from.isNullAt)
    override def numNulls: Int = rows.count(from.isNullAt)
    override def isNullAt(row: Int): Boolean = from.isNullAt(rows(row))
    override def getBoolean(row: Int): Boolean = from.getBoolean(rows(row))
    override def getByte(row: Int): Byte = from.getByte(rows(row))
    override def getShort(row: Int): Short = from.getShort(rows(row))
    override def getInt(row: Int): Int = from.getInt(rows(row))
    override def getLong(row: Int): Long = from.getLong(rows(row))
    override def getFloat(row: Int): Float = from.getFloat(rows(row))
    override def getDouble(row: Int): Double = from.getDouble(rows(row))
    override def getArray(row: Int): ColumnarArray = from.getArray(rows(row))
    override def getMap(row: Int): ColumnarMap = from.getMap(rows(row))
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal =
      from.getDecimal(rows(row), precision, scale)
    override def getUTF8String(row: Int): UTF8String = from.getUTF8String(rows(row))
    override def getBinary(row: Int): Array[Byte] = from.getBinary(rows(row))
    override def getChild(ordinal: Int): ColumnVector = from.getChild(ordinal)
  }
}

private[spark] object AggregatesReader {

  /** The largest value of a type. */
  def most(dataType: DataType): JavaDecimal = dataType match {
    case decimal: DecimalType =>
      val digits = BigInteger.TEN.pow(decimal.precision).subtract(BigInteger.ONE)
      new JavaDecimal(digits, decimal.scale)
    case _ => JavaDecimal.valueOf(Long.MaxValue)
  }
}
