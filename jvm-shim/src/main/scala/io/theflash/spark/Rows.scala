package io.theflash.spark

import java.io.IOException

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.arrow.memory.{BufferAllocator, RootAllocator}
import org.apache.arrow.vector.VectorSchemaRoot
import org.apache.arrow.vector.compression.NoCompressionCodec
import org.apache.arrow.vector.dictionary.DictionaryProvider
import org.apache.arrow.vector.ipc.ArrowStreamReader

/** The rows of splits of one plan, batch by batch. An iteration either returns all rows or raises.
  */
private[spark] final class Rows(client: Client, tickets: Seq[String]) extends AutoCloseable {
  private val data = client.scan(
    Messages.message(
      "ticket" -> Messages.text(tickets.head),
      "dictionaries" -> Messages.flag(true),
      "more" -> Messages.list(tickets.tail.map(Messages.text))
    )
  )
  private val connection = data.connection
  private var isOpen = true
  private var batches = 0L
  private var rowCount = 0L
  private var allocator: BufferAllocator = _
  private var reader: ArrowStreamReader = _

  /** The next batch, valid until the following call. */
  def next(): Option[VectorSchemaRoot] =
    try {
      if (reader == null) {
        allocator = Rows.root.newChildAllocator("theflash scan", 0, Rows.MemoryMax)
        reader = new ArrowStreamReader(data, allocator, NoCompressionCodec.Factory.INSTANCE)
      }
      if (reader.loadNextBatch()) {
        val root = reader.getVectorSchemaRoot
        batches += 1
        rowCount += root.getRowCount.toLong
        Some(root)
      } else {
        checkEnd()
        None
      }
    } catch {
      case error: TheFlashException => throw error
      case error: IOException       => throw notArrow(error)
      case error: RuntimeException  => throw notArrow(error)
    }

  def dictionaries: DictionaryProvider = reader

  def sizeBytes: Long = data.sizeBytes

  /** Discards the rest. May be called twice. */
  override def close(): Unit = if (isOpen) {
    isOpen = false
    try {
      if (reader != null) reader.close(false)
      if (allocator != null) allocator.close()
    } finally {
      // The connection of a stream that was not read to its end is closed, which stops the server.
      client.giveBack(connection)
    }
  }

  private def checkEnd(): Unit = {
    if (data.hasData()) throw notArrow(null)
    val end = connection.end
    val announced = (end.getLong(0), end.getLong(8), end.getLong(16))
    if (announced != ((batches, rowCount, data.sizeBytes)))
      throw Errors.cut(
        connection.address,
        s"${announced._2} rows were announced, $rowCount were received"
      )
  }

  private def notArrow(cause: Throwable): TheFlashException = {
    connection.usable = false
    Errors.protocol(connection.address, "what it sends is no Arrow stream", cause)
  }
}

private[spark] object Rows {

  /** Memory limit for a batch, independent of the announced size. */
  private val MemoryMax = 4L << 30
  private lazy val root = new RootAllocator()
  private val Tries = 3

  /** Starts reading the rows of splits. Retryable errors before the first batch are retried.
    *
    * @param again returns other tickets for the same rows, if the plan's latch has expired
    */
  def begun(client: Client, tickets: Seq[String])(
      again: TheFlashException => Seq[String]
  ): (Rows, Option[VectorSchemaRoot]) = {
    var tries = Tries
    var current = tickets
    while (true) {
      tries -= 1
      var rows: Rows = null
      try {
        rows = new Rows(client, current)
        return (rows, rows.next())
      } catch {
        case NonFatal(error) =>
          if (rows != null) rows.close()
          error match {
            case ours: TheFlashException if ours.retryable && tries > 0 =>
              if (ours.kind == Errors.LeaseExpired) current = again(ours)
            case _ => throw error
          }
      }
    }
    throw new IllegalStateException
  }

  /** The vectors of a batch in the order of its schema. */
  def vectors(root: VectorSchemaRoot): IndexedSeq[org.apache.arrow.vector.FieldVector] =
    root.getFieldVectors.asScala.toIndexedSeq
}
