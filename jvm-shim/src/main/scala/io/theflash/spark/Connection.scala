package io.theflash.spark

import java.io.{EOFException, IOException}
import java.net.{
  InetSocketAddress,
  SocketTimeoutException,
  StandardProtocolFamily,
  UnixDomainSocketAddress
}
import java.nio.ByteBuffer
import java.nio.channels.{ReadableByteChannel, SocketChannel}
import java.nio.charset.StandardCharsets.{US_ASCII, UTF_8}
import java.util.concurrent.TimeUnit.MILLISECONDS

import com.fasterxml.jackson.core.JsonProcessingException
import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}
import javax.net.ssl.SSLException

/** The frames of protos/theflash/v1/theflash.proto: type u8, flags u8, 0 u16, call u32, length u32,
  * body.
  */
private[spark] object Frame {
  val Version = 1
  val HeaderBytes = 12
  val Json = 1
  val NonceBytes = 32
  val GreetingBytesMax: Int = 4 << 10
  val ResponseBytesMax: Int = 64 << 20
  val DataBytesMax: Int = 4 << 20

  val Hello = 1
  val Auth = 2
  val Ready = 3
  val Request = 4
  val Response = 5
  val Data = 6
  val End = 7
  val Error = 8

  val Preface: Array[Byte] = "TFLASH".getBytes(US_ASCII) ++ Array[Byte](0, Version.toByte)
  val Names: Array[String] =
    Array("?", "HELLO", "AUTH", "READY", "REQUEST", "RESPONSE", "DATA", "END", "ERROR", "CANCEL")
}

/** The connection ended before the first byte of an answer; `seen` is the error to raise. */
private[spark] final class DeadConnection(val seen: TheFlashException) extends Exception(seen)

/** A connection after the handshake. It executes one call at a time. */
private[spark] final class Connection(link: Link, val address: String, token: Option[Token]) {
  import Connection._

  private val header = ByteBuffer.allocate(Frame.HeaderBytes)
  private var calls = 0
  private var method = ""
  private var timeoutMs = 0L
  private var deadline = 0L

  /** Whether another call can follow. */
  var usable = false

  /** End of the last call, by `System.nanoTime`. */
  var idleSince: Long = System.nanoTime()

  try greet()
  catch {
    case error: Throwable =>
      link.close()
      throw error
  }
  usable = true

  /** Executes a call with a single response message. */
  def call(name: String, request: JsonNode, timeoutMs: Int): JsonNode = {
    begin(name, request, timeoutMs)
    val body = expected(Frame.Response, Frame.ResponseBytesMax, isFirst = true)
    val _ = expected(Frame.End, Frame.GreetingBytesMax, isFirst = false)
    usable = true
    parsed(body)
  }

  /** Starts reading the rows of a split as an Arrow stream, which uses the connection until its
    * end.
    */
  def scan(request: JsonNode): DataChannel = {
    begin("Scan", request, 0)
    new DataChannel(this)
  }

  /** Size of the next DATA frame, to be received by the caller; negative at the end. */
  def nextData(isFirst: Boolean): Int = {
    val (kind, length) = frameHeader(Frame.DataBytesMax, isFirst)
    if (kind == Frame.Data) length
    else {
      val body = frameBody(kind, length)
      if (kind != Frame.End) throw broken(s"${Frame.Names(kind)} in the middle of rows")
      if (body.length != 24) throw broken("an END that is none")
      end = ByteBuffer.wrap(body)
      usable = true
      -1
    }
  }

  /** The body of END. */
  var end: ByteBuffer = ByteBuffer.allocate(0)

  /** Receives bytes of DATA. The deadline restarts each time, since the consumer may be slow. */
  def receive(buffer: ByteBuffer): Unit = {
    deadline = after(StallMs)
    try link.receive(buffer, deadline)
    catch { case error: IOException => throw lost(error, isFirst = false) }
  }

  def close(): Unit = {
    usable = false
    try link.close()
    catch { case _: IOException => } // it is closed in either case
  }

  /** The error for an invalid message of the server. */
  def broken(reason: String): TheFlashException = {
    usable = false
    Errors.protocol(address, reason)
  }

  private def begin(name: String, request: JsonNode, timeoutMs: Int): Unit = {
    calls += 1
    method = name
    this.timeoutMs = if (timeoutMs > 0) timeoutMs.toLong else StallMs
    deadline = after(this.timeoutMs + GraceMs)
    usable = false
    val message = Mapper.writeValueAsBytes(request)
    val body = ByteBuffer.allocate(5 + name.length + message.length)
    body.putInt(timeoutMs).put(name.length.toByte).put(name.getBytes(US_ASCII)).put(message)
    try send(Frame.Request, calls, body.array(), after(SendMs))
    catch { case error: IOException => throw lost(error, isFirst = true) }
  }

  private def greet(): Unit =
    try {
      val until = after(ConnectMs.toLong)
      deadline = until
      unlessRefused(link.send(ByteBuffer.wrap(Frame.Preface), until))
      val hello = ByteBuffer.wrap(greeting(Frame.Hello))
      if (hello.remaining() != 3 + Frame.NonceBytes) throw broken("hello: not one")
      val version = hello.getShort.toInt
      if (version != Frame.Version)
        throw broken(s"hello: version $version, and only ${Frame.Version} is known here")
      val needsToken = hello.get() != 0
      val nonce = new Array[Byte](Frame.NonceBytes)
      hello.get(nonce)
      if (needsToken && token.isEmpty)
        throw Errors.authentication(address, "it wants a token, and none is given")
      val proof = if (needsToken) token.get.proof(nonce) else Array.emptyByteArray
      unlessRefused(send(Frame.Auth, 0, proof, until))
      val _ = greeting(Frame.Ready)
    } catch {
      case error: SSLException           => throw authentication(address, error)
      case error: SocketTimeoutException => throw Errors.unavailable(address, said(error), error)
      case error: IOException =>
        throw new DeadConnection(Errors.unavailable(address, said(error), error))
    }

  /** Sends; ignores a closed connection, since the server may have sent an error before. */
  private def unlessRefused(sending: => Unit): Unit =
    try sending
    catch {
      case error @ (_: SSLException | _: SocketTimeoutException) => throw error
      case _: IOException                                        =>
    }

  private def greeting(wanted: Int): Array[Byte] = {
    val (kind, length) = readHeader(Frame.GreetingBytesMax)
    val body = new Array[Byte](length)
    link.receive(ByteBuffer.wrap(body), deadline)
    if (kind == Frame.Error) throw refusal(body)
    if (kind != wanted)
      throw broken(s"${Frame.Names(kind)} where ${Frame.Names(wanted)} should be")
    body
  }

  private def expected(wanted: Int, lengthMax: Int, isFirst: Boolean): Array[Byte] = {
    val (kind, length) = frameHeader(lengthMax, isFirst)
    val body = frameBody(kind, length)
    if (kind != wanted)
      throw broken(s"${Frame.Names(kind)} where ${Frame.Names(wanted)} should be")
    body
  }

  private def frameHeader(lengthMax: Int, isFirst: Boolean): (Int, Int) =
    try {
      if (method == "Scan") deadline = after(StallMs)
      readHeader(lengthMax)
    } catch { case error: IOException => throw lost(error, isFirst) }

  private def frameBody(kind: Int, length: Int): Array[Byte] = {
    val body = new Array[Byte](length)
    try link.receive(ByteBuffer.wrap(body), deadline)
    catch { case error: IOException => throw lost(error, isFirst = false) }
    if (kind == Frame.Error) {
      val isOurs = header.getInt(4) == calls
      val error = Errors.decoded(parsed(body))
      usable = isOurs
      throw error
    }
    body
  }

  /** Type and length of the next frame, both checked. */
  private def readHeader(lengthMax: Int): (Int, Int) = {
    header.clear()
    link.receive(header, deadline)
    val kind = header.get(0).toInt
    val (flags, zero, call, length) =
      (header.get(1) & ~Frame.Json, header.getShort(2), header.getInt(4), header.getInt(8))
    if (kind < 1 || kind >= Frame.Names.length || flags != 0 || zero != 0)
      throw broken("frame: not a frame")
    if (length < 0 || length > lengthMax)
      throw broken(s"frame: ${length & 0xffffffffL} bytes, and $lengthMax may be")
    // A frame of no call is the server's final error.
    if (call != calls && call != 0) throw broken(s"an answer to call $call and not to $calls")
    (kind, length)
  }

  private def send(kind: Int, call: Int, body: Array[Byte], until: Long): Unit = {
    val frame = ByteBuffer.allocate(Frame.HeaderBytes + body.length)
    val flags = if (kind == Frame.Request) Frame.Json else 0
    frame.put(kind.toByte).put(flags.toByte).putShort(0).putInt(call).putInt(body.length).put(body)
    frame.flip()
    link.send(frame, until)
  }

  private def parsed(body: Array[Byte]): JsonNode =
    try Mapper.readTree(body)
    catch { case _: JsonProcessingException => throw broken("what it sends is no message") }

  /** Decodes an error before the first call, in protobuf's binary form: name and text. */
  private def refusal(body: Array[Byte]): TheFlashException = {
    val fields = Wire.strings(body)
    new TheFlashException(
      fields.getOrElse(1, "AuthenticationError").take(80),
      fields.getOrElse(2, "").take(2000),
      retryable = false
    )
  }

  /** The error for a connection that ended or timed out. */
  private def lost(error: IOException, isFirst: Boolean): Exception = {
    usable = false
    error match {
      case _: SocketTimeoutException => Errors.deadline(method, timeoutMs)
      case _ if isFirst => new DeadConnection(Errors.unavailable(address, said(error), error))
      case _ =>
        val reason = s"in the middle of an answer: ${said(error)}"
        if (method == "Scan") Errors.cut(address, reason, error)
        else Errors.unavailable(address, reason, error)
    }
  }
}

private[spark] object Connection {
  val Mapper = new ObjectMapper()
  val ConnectMs = 5000
  val SendMs = 30000L
  val GraceMs = 2000L

  /** Longest pause in a stream of rows. */
  val StallMs = 600000L

  /** Pauses before further attempts to connect. */
  private val AgainMs = List(20L, 100L, 500L)

  /** Connects, and again if the server hangs up during the greeting, before any request: it does
    * that to its oldest callers if too many that have no token connect.
    */
  def open(server: Server): Connection = {
    def attempt(pauses: List[Long]): Connection =
      try greeted(server)
      catch {
        case dead: DeadConnection =>
          pauses match {
            case pause :: rest =>
              Thread.sleep(pause)
              attempt(rest)
            case Nil => throw dead.seen
          }
      }
    attempt(AgainMs)
  }

  private def greeted(server: Server): Connection = {
    val address = server.address
    val link =
      try connected(server)
      catch {
        case error: SSLException => throw authentication(address, error)
        case error @ (_: IOException | _: java.nio.channels.UnresolvedAddressException) =>
          throw Errors.unavailable(address, said(error), error)
      }
    new Connection(link, address, server.token)
  }

  private def connected(server: Server): Link =
    if (server.address.startsWith("unix:")) {
      if (server.tls.isDefined) throw Errors.option("tls_ca", "a unix socket takes no certificates")
      channel(
        SocketChannel.open(StandardProtocolFamily.UNIX),
        UnixDomainSocketAddress.of(server.address.stripPrefix("unix:"))
      )
    } else {
      val (host, port) = hostPort(server.address)
      server.tls match {
        case Some(material) => TlsLink.connect(Tls.context(material), host, port, ConnectMs)
        case None =>
          val made = SocketChannel.open()
          made.setOption(java.net.StandardSocketOptions.TCP_NODELAY, java.lang.Boolean.TRUE)
          channel(made, new InetSocketAddress(host, port))
      }
    }

  private def channel(made: SocketChannel, address: java.net.SocketAddress): Link = {
    val link = new ChannelLink(made)
    try link.connect(address, after(ConnectMs.toLong))
    catch {
      case error: Throwable =>
        link.close()
        throw error
    }
    link
  }

  private def hostPort(address: String): (String, Int) = {
    val form = """(\[[0-9A-Fa-f:.]+\]|[^/:\[\]\s]+):([0-9]{1,5})""".r
    address match {
      case form(host, port) if port.toInt < 65536 =>
        (host.stripPrefix("[").stripSuffix("]"), port.toInt)
      case _ =>
        throw Errors.option("address", s"'$address' is not of the form HOST:PORT or unix:PATH")
    }
  }

  private def authentication(address: String, error: SSLException): TheFlashException =
    Errors.authentication(address, s"TLS: ${said(error)}", error)

  private def said(error: Throwable): String = error match {
    case _: EOFException => "it hangs up"
    case _               => Option(error.getMessage).getOrElse(error.getClass.getSimpleName)
  }

  private def after(ms: Long): Long = System.nanoTime() + MILLISECONDS.toNanos(ms)
}

/** Decoder of string fields in protobuf's binary form. */
private[spark] object Wire {
  def strings(body: Array[Byte]): Map[Int, String] = {
    val buffer = ByteBuffer.wrap(body)
    val fields = Map.newBuilder[Int, String]
    while (buffer.hasRemaining) {
      val tag = varint(buffer)
      (tag & 7L) match {
        case 0 => val _ = varint(buffer)
        case 2 =>
          val length = varint(buffer)
          if (length > buffer.remaining()) return fields.result()
          val bytes = new Array[Byte](length.toInt)
          buffer.get(bytes)
          fields += (tag >>> 3).toInt -> new String(bytes, UTF_8)
        case _ => return fields.result()
      }
    }
    fields.result()
  }

  private def varint(buffer: ByteBuffer): Long = {
    var value = 0L
    var shift = 0
    while (buffer.hasRemaining && shift < 64) {
      val byte = buffer.get()
      value |= (byte & 0x7fL) << shift
      if (byte >= 0) return value
      shift += 7
    }
    value
  }
}

/** The bytes of DATA frames as a channel for Arrow's reader. */
private[spark] final class DataChannel(val connection: Connection) extends ReadableByteChannel {
  private var left = 0
  private var isOver = false
  private var isFirst = true

  /** Number of bytes received. */
  var sizeBytes = 0L

  override def read(buffer: ByteBuffer): Int =
    if (!buffer.hasRemaining) 0
    else if (!hasData()) -1
    else {
      val limit = buffer.limit()
      val taken = math.min(left, buffer.remaining())
      buffer.limit(buffer.position() + taken)
      connection.receive(buffer)
      buffer.limit(limit)
      left -= taken
      taken
    }

  /** Whether there are more bytes; waits for the next frame. */
  def hasData(): Boolean = {
    while (left == 0 && !isOver) {
      left = connection.nextData(isFirst)
      isFirst = false
      if (left < 0) {
        isOver = true
        left = 0
      } else sizeBytes += left.toLong
    }
    left > 0
  }

  override def isOpen: Boolean = !isOver
  override def close(): Unit = ()
}
