package io.theflash.spark

import java.math.{BigDecimal => JavaDecimal, BigInteger}

import org.apache.arrow.vector._
import org.apache.arrow.vector.complex.ListVector
import org.apache.arrow.vector.dictionary.DictionaryProvider
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarArray, ColumnarMap}
import org.apache.spark.unsafe.Platform
import org.apache.spark.unsafe.types.UTF8String

/** Spark columns over Arrow vectors, without copying. They read decimals in half the time of
  * Spark's own, and support dictionaries of strings, which Spark's do not.
  *
  * They are valid until the reader that owns the memory reads its next batch.
  */
private[spark] object Vectors {

  /** A column of `dataType`; `nullable` and `name` are those of the plan. */
  def column(
      vector: FieldVector,
      dataType: DataType,
      nullable: Boolean,
      name: String,
      dictionaries: DictionaryProvider
  ): ColumnVector = {
    if (!nullable && vector.getNullCount > 0)
      throw Errors.corruption(s"column $name", "a NULL in a NOT NULL column")
    val encoding = vector.getField.getDictionary
    if (encoding != null) {
      val words = dictionaries.lookup(encoding.getId).getVector
      (vector, words) match {
        case (indices: IntVector, texts: VarCharVector)   => new IndexedTexts(indices, texts)
        case (indices: IntVector, bytes: VarBinaryVector) => new IndexedBytes(indices, bytes)
        case _                                            => throw unknown(vector, dataType)
      }
    } else plain(vector, dataType)
  }

  /** Sums of 128 bits as `dataType`, longs or decimals of the same scale; None if one does not fit.
    */
  def sums(vector: FieldVector, dataType: DataType): Option[ColumnVector] =
    (vector, dataType) match {
      case (decimals: DecimalVector, to: DecimalType) if decimals.getScale == to.scale =>
        val digits = math.min(to.precision, Decimal.MAX_LONG_DIGITS)
        val most = if (to.precision > digits) Long.MaxValue else Decimal.POW_10(digits) - 1
        Option.when(fit(decimals, most))(new Decimals(decimals, to))
      case (decimals: DecimalVector, LongType) if decimals.getScale == 0 =>
        Option.when(fit(decimals, Long.MaxValue))(new Longs(decimals))
      case _ => None
    }

  /** Whether all unscaled values are between -`most` and `most`. */
  private def fit(vector: DecimalVector, most: Long): Boolean = {
    val data = vector.getDataBufferAddress
    var row = 0
    val count = vector.getValueCount
    while (row < count) {
      val low = Platform.getLong(null, data + 16L * row)
      val high = Platform.getLong(null, data + 16L * row + 8)
      if ((high != low >> 63 || low > most || low < -most) && !vector.isNull(row)) return false
      row += 1
    }
    true
  }

  private def plain(vector: FieldVector, dataType: DataType): ColumnVector =
    (vector, dataType) match {
      case (_: UInt4Vector, IntegerType) => new Fixed(vector, dataType)
      case (_: UInt1Vector | _: UInt2Vector | _: UInt4Vector | _: UInt8Vector, _) =>
        new Unsigned(vector, dataType)
      case (_: DecimalVector, decimal: DecimalType) => new Decimals(vector, decimal)
      case (_: Decimal256Vector, StringType)        => new DecimalTexts(vector)
      case (_: VarCharVector, StringType) | (_: VarBinaryVector, BinaryType) =>
        new Texts(vector, dataType)
      case (list: ListVector, array: ArrayType) => new Arrays(list, array)
      case (_: TinyIntVector, ByteType) | (_: SmallIntVector, ShortType) |
          (_: IntVector, IntegerType) | (_: BigIntVector, LongType) |
          (_: Float4Vector, FloatType) | (_: Float8Vector, DoubleType) |
          (_: DateDayVector, DateType) | (_: TimeStampMicroVector, TimestampNTZType) |
          (_: TimeStampMicroTZVector, TimestampType) |
          (_: DurationVector, _: DayTimeIntervalType) =>
        new Fixed(vector, dataType)
      case (_: BitVector, BooleanType) => new Bits(vector)
      case _ => throw unknown(vector, dataType)
    }

  private def unknown(vector: FieldVector, dataType: DataType) =
    Errors.protocol(
      s"column ${vector.getName}",
      s"${vector.getField.getType} where ${dataType.simpleString} should be"
    )

  /** Base class, which implements NULLs only. */
  private abstract class Values(vector: FieldVector, dataType: DataType)
      extends ColumnVector(dataType) {
    private val nulls = vector.getNullCount
    private val validity = vector.getValidityBufferAddress

    override def close(): Unit = ()
    override def hasNull: Boolean = nulls > 0
    override def numNulls: Int = nulls
    override def isNullAt(row: Int): Boolean =
      nulls > 0 && (Platform.getByte(null, validity + (row >> 3)) >> (row & 7) & 1) == 0
    override def getBoolean(row: Int): Boolean = none()
    override def getByte(row: Int): Byte = none()
    override def getShort(row: Int): Short = none()
    override def getInt(row: Int): Int = none()
    override def getLong(row: Int): Long = none()
    override def getFloat(row: Int): Float = none()
    override def getDouble(row: Int): Double = none()
    override def getArray(row: Int): ColumnarArray = none()
    override def getMap(row: Int): ColumnarMap = none()
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal = none()
    override def getUTF8String(row: Int): UTF8String = none()
    override def getBinary(row: Int): Array[Byte] = none()
    override def getChild(ordinal: Int): ColumnVector = none()

    private def none(): Nothing =
      throw new UnsupportedOperationException(s"${dataType.simpleString} has no such form")
  }

  /** Numbers of the same width in Arrow and Spark. */
  private final class Fixed(vector: FieldVector, dataType: DataType)
      extends Values(vector, dataType) {
    private val data = vector.getDataBufferAddress

    override def getByte(row: Int): Byte = Platform.getByte(null, data + row)
    override def getShort(row: Int): Short = Platform.getShort(null, data + 2L * row)
    override def getInt(row: Int): Int = Platform.getInt(null, data + 4L * row)
    override def getLong(row: Int): Long = Platform.getLong(null, data + 8L * row)
    override def getFloat(row: Int): Float = Platform.getFloat(null, data + 4L * row)
    override def getDouble(row: Int): Double = Platform.getDouble(null, data + 8L * row)
  }

  /** Booleans, eight to a byte. */
  private final class Bits(vector: FieldVector) extends Values(vector, BooleanType) {
    private val data = vector.getDataBufferAddress

    override def getBoolean(row: Int): Boolean =
      (Platform.getByte(null, data + (row >> 3)) >> (row & 7) & 1) != 0
  }

  /** Unsigned integers, as Spark's next wider type. */
  private final class Unsigned(vector: FieldVector, dataType: DataType)
      extends Values(vector, dataType) {
    private val data = vector.getDataBufferAddress

    override def getShort(row: Int): Short = (Platform.getByte(null, data + row) & 0xff).toShort
    override def getInt(row: Int): Int = Platform.getShort(null, data + 2L * row) & 0xffff
    override def getLong(row: Int): Long = Platform.getInt(null, data + 4L * row) & 0xffffffffL
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal = {
      val value = Platform.getLong(null, data + 8L * row)
      val exact =
        if (value >= 0) JavaDecimal.valueOf(value)
        else new JavaDecimal(new BigInteger(java.lang.Long.toUnsignedString(value)))
      Decimal(exact, precision, scale)
    }
  }

  /** Decimals of 128 bits; Spark stores those of up to 18 digits as longs. */
  private final class Decimals(vector: FieldVector, dataType: DecimalType)
      extends Values(vector, dataType) {
    private val data = vector.getDataBufferAddress

    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal =
      if (precision <= Decimal.MAX_LONG_DIGITS)
        Decimal.createUnsafe(Platform.getLong(null, data + 16L * row), precision, scale)
      else {
        val low = Platform.getLong(null, data + 16L * row)
        val high = Platform.getLong(null, data + 16L * row + 8)
        if (high == low >> 63) Decimal(low, precision, scale)
        else {
          val bytes = new Array[Byte](16)
          java.nio.ByteBuffer.wrap(bytes).putLong(high).putLong(low)
          Decimal(new JavaDecimal(new BigInteger(bytes), scale), precision, scale)
        }
      }
  }

  /** Decimals of 128 bits and scale 0, all within long. */
  private final class Longs(vector: DecimalVector) extends Values(vector, LongType) {
    private val data = vector.getDataBufferAddress

    override def getLong(row: Int): Long = Platform.getLong(null, data + 16L * row)
  }

  /** Decimals with too many digits for Spark, as strings. */
  private final class DecimalTexts(vector: FieldVector) extends Values(vector, StringType) {
    override def getUTF8String(row: Int): UTF8String =
      UTF8String.fromString(vector.asInstanceOf[Decimal256Vector].getObject(row).toPlainString)
  }

  /** Strings or bytes, stored consecutively. */
  private final class Texts(vector: FieldVector, dataType: DataType)
      extends Values(vector, dataType) {
    private val data = vector.getDataBufferAddress
    private val offsets = vector.getOffsetBufferAddress

    override def getUTF8String(row: Int): UTF8String = {
      val begin = Platform.getInt(null, offsets + 4L * row)
      val end = Platform.getInt(null, offsets + 4L * row + 4)
      UTF8String.fromAddress(null, data + begin, end - begin)
    }

    override def getBinary(row: Int): Array[Byte] = {
      val begin = Platform.getInt(null, offsets + 4L * row)
      val bytes = new Array[Byte](Platform.getInt(null, offsets + 4L * row + 4) - begin)
      Platform.copyMemory(
        null,
        data + begin,
        bytes,
        Platform.BYTE_ARRAY_OFFSET.toLong,
        bytes.length.toLong
      )
      bytes
    }
  }

  /** Dictionary-encoded strings. */
  private final class IndexedTexts(indices: IntVector, texts: VarCharVector)
      extends Values(indices, StringType) {
    private val data = indices.getDataBufferAddress
    private val words =
      Array.tabulate(texts.getValueCount)(n => UTF8String.fromBytes(texts.get(n)))

    override def getUTF8String(row: Int): UTF8String = words(Platform.getInt(null, data + 4L * row))
  }

  /** Dictionary-encoded bytes. */
  private final class IndexedBytes(indices: IntVector, bytes: VarBinaryVector)
      extends Values(indices, BinaryType) {
    private val data = indices.getDataBufferAddress
    private val words = new Texts(bytes, BinaryType)

    override def getBinary(row: Int): Array[Byte] = {
      val word = Platform.getInt(null, data + 4L * row)
      if (word < 0 || word >= bytes.getValueCount)
        throw new IndexOutOfBoundsException(s"word $word of a dictionary")
      words.getBinary(word)
    }
  }

  /** Lists of numbers. */
  private final class Arrays(vector: ListVector, dataType: ArrayType)
      extends Values(vector, dataType) {
    private val offsets = vector.getOffsetBufferAddress
    private val elements = plain(vector.getDataVector, dataType.elementType)

    override def getArray(row: Int): ColumnarArray = {
      val begin = Platform.getInt(null, offsets + 4L * row)
      new ColumnarArray(elements, begin, Platform.getInt(null, offsets + 4L * row + 4) - begin)
    }
    override def getChild(ordinal: Int): ColumnVector = elements
  }
}
