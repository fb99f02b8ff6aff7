package io.theflash.spark

import java.nio.channels.Channels
import java.util.Base64

import scala.jdk.CollectionConverters._

import org.apache.arrow.vector.ipc.ReadChannel
import org.apache.arrow.vector.ipc.message.MessageSerializer
import org.apache.arrow.vector.types.pojo.{ArrowType, Field, Schema}
import org.apache.arrow.vector.types.{DateUnit, FloatingPointPrecision, TimeUnit}
import org.apache.spark.sql.types._

/** Mapping of Arrow types to Spark types, as in pyspark_theflash/spark/schema.py. */
private[spark] object Types {

  /** Decodes an Arrow schema from the text of an IPC message. */
  def schema(base64: String): Seq[Field] = {
    val bytes = new java.io.ByteArrayInputStream(Base64.getDecoder.decode(base64))
    val channel = new ReadChannel(Channels.newChannel(bytes))
    val schema: Schema = MessageSerializer.deserializeSchema(channel)
    schema.getFields.asScala.toSeq
  }

  /** `tidbType`: MEDIUMINT UNSIGNED has 32 bits without a sign, and fits an int. */
  def sparkType(field: Field, tidbType: String): DataType = field.getType match {
    case int: ArrowType.Int => integer(int, tidbType)
    case float: ArrowType.FloatingPoint =>
      if (float.getPrecision == FloatingPointPrecision.SINGLE) FloatType else DoubleType
    case decimal: ArrowType.Decimal =>
      if (decimal.getBitWidth == 128) DecimalType(decimal.getPrecision, decimal.getScale)
      else StringType
    case date: ArrowType.Date if date.getUnit == DateUnit.DAY => DateType
    case time: ArrowType.Timestamp if time.getUnit == TimeUnit.MICROSECOND =>
      if (time.getTimezone == null) TimestampNTZType else TimestampType
    case span: ArrowType.Duration if span.getUnit == TimeUnit.MICROSECOND => DayTimeIntervalType()
    case _: ArrowType.Utf8   => StringType
    case _: ArrowType.Binary => BinaryType
    case _: ArrowType.List if isFloat(field.getChildren.get(0)) =>
      ArrayType(FloatType, containsNull = false)
    case other =>
      throw new TheFlashException(
        Errors.Unsupported,
        s"column ${field.getName}: type $other is not supported",
        retryable = false
      )
  }

  private def integer(int: ArrowType.Int, tidbType: String): DataType =
    (int.getBitWidth, int.getIsSigned) match {
      case (8, true)                         => ByteType
      case (8, false) | (16, true)           => ShortType
      case (16, false) | (32, true)          => IntegerType
      case (32, false) if tidbType == "INT24" => IntegerType
      case (32, false) | (64, true)          => LongType
      case _                                 => DecimalType(20, 0)
    }

  private def isFloat(field: Field) = field.getType match {
    case float: ArrowType.FloatingPoint => float.getPrecision == FloatingPointPrecision.SINGLE
    case _                              => false
  }
}
